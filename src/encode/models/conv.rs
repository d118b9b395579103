//! Convolutions of one picture, and linear layers, on the CPU.
//!
//! Activations are (positions, channels), row after row of the picture. So a 1x1 convolution is one matrix
//! product, and a depthwise convolution runs over neighbouring channels. candle's grouped convolution
//! computes each channel separately, which is hundreds of times slower.

use candle_core::{CpuStorage, CustomOp3, Device, InplaceOp2, Layout, Result, Shape, Tensor};

/// The function applied to each output of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Activation {
    None,
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// `x Φ(x)`, computed with the error function.
    Gelu,
    /// `x / 2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))`, the approximation of GELU in SigLIP.
    GeluTanh,
    /// `x / (1 + exp(-1.702 x))`, the approximation of GELU in CLIP.
    QuickGelu,
}

impl Activation {
    #[inline(always)]
    fn apply(self, values: &mut [f32]) {
        match self {
            Activation::None => (),
            Activation::Relu => {
                for x in values {
                    // `max` would turn NaN into 0 and hide that the network has failed.
                    *x = if *x < 0.0 { 0.0 } else { *x };
                }
            }
            Activation::Relu6 => {
                for x in values {
                    *x = x.clamp(0.0, 6.0);
                }
            }
            Activation::Gelu => {
                for x in values {
                    *x = gelu(*x);
                }
            }
            Activation::GeluTanh => {
                const SCALE: f32 = 0.797_884_6;
                for x in values {
                    *x = 0.5 * *x * (1.0 + tanh(SCALE * (*x + 0.044_715 * *x * *x * *x)));
                }
            }
            Activation::QuickGelu => {
                for x in values {
                    // The logistic function of 2t is (1 + tanh(t)) / 2.
                    *x = 0.5 * *x * (1.0 + tanh(0.851 * *x));
                }
            }
        }
    }
}

/// `x / 2 · (1 + erf(x / √2))`. The error function is `t P(t²) / Q(t²)` with `t` clamped to ±4, within 5e-7:
/// the rational function of Eigen and XLA.
#[inline(always)]
fn gelu(x: f32) -> f32 {
    const P: [f32; 7] = [
        -2.726_142_3e-10,
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_4e-5,
        -7.349_906_3e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ];
    const Q: [f32; 5] = [-1.456_607_2e-5, -2.133_740_6e-4, -1.682_827e-3, -7.373_329_2e-3, -1.426_474e-2];
    let t = (x * std::f32::consts::FRAC_1_SQRT_2).clamp(-4.0, 4.0);
    0.5 * x * (1.0 + t * polynomial(&P, t * t) / polynomial(&Q, t * t))
}

/// The hyperbolic tangent as `t P(t²) / Q(t²)` with `t` clamped to ±7.9, within 5e-7: the rational function
/// of Eigen. Unlike the standard library's, it is compiled to vector instructions.
#[inline(always)]
fn tanh(x: f32) -> f32 {
    const P: [f32; 7] = [
        -2.760_768_5e-16,
        2.000_188e-13,
        -8.604_672e-11,
        5.122_297_3e-8,
        1.485_722_4e-5,
        6.372_619_4e-4,
        4.893_524_6e-3,
    ];
    const Q: [f32; 4] = [1.198_258_4e-6, 1.185_347_1e-4, 2.268_434_6e-3, 4.893_525e-3];
    let t = x.clamp(-7.905_311, 7.905_311);
    t * polynomial(&P, t * t) / polynomial(&Q, t * t)
}

/// A polynomial with its highest coefficient first.
#[inline(always)]
fn polynomial(coefficients: &[f32], x: f32) -> f32 {
    let mut sum = coefficients[0];
    for c in &coefficients[1..] {
        sum = sum * x + c;
    }
    sum
}

/// A linear layer, which is also a 1x1 convolution or a convolution of patches: `a(x W + b)` with the
/// activation `a`.
pub(super) struct Pointwise {
    /// (inputs, outputs).
    weight: Tensor,
    bias: Tensor,
}

impl Pointwise {
    /// From a weight (outputs, inputs), row after row, and a bias (outputs).
    pub(super) fn new(weight: Vec<f32>, bias: Vec<f32>) -> Result<Pointwise> {
        let outputs = bias.len();
        let weight = Tensor::from_vec(weight, (outputs, ()), &Device::Cpu)?;
        Ok(Pointwise { weight: weight.t()?.contiguous()?, bias: Tensor::from_vec(bias, outputs, &Device::Cpu)? })
    }

    /// Number of output channels.
    pub(super) fn outputs(&self) -> usize {
        self.bias.elem_count()
    }

    /// (positions, inputs) to (positions, outputs).
    pub(super) fn apply(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        let y = x.matmul(&self.weight)?;
        y.inplace_op2(&self.bias, &RowOp { step: RowStep::Add, activation })?;
        Ok(y)
    }
}

/// A convolution of each channel with a separate kernel.
pub(super) struct Depthwise {
    /// (taps, channels).
    weight: Tensor,
    bias: Tensor,
    /// Pixels along a side of the kernel.
    kernel: usize,
}

impl Depthwise {
    /// From a weight (channels, taps), row after row, and a bias (channels).
    pub(super) fn new(weight: Vec<f32>, bias: Vec<f32>) -> Result<Depthwise> {
        let channels = bias.len();
        let kernel = (weight.len() / channels.max(1)).isqrt();
        let weight = Tensor::from_vec(weight, (channels, kernel * kernel), &Device::Cpu)?;
        Ok(Depthwise {
            weight: weight.t()?.contiguous()?,
            bias: Tensor::from_vec(bias, channels, &Device::Cpu)?,
            kernel,
        })
    }

    /// (side², channels) to (⌈side / stride⌉², channels), with `before` rows of zeros before the first row,
    /// and as many as are needed after the last.
    pub(super) fn apply(
        &self,
        x: &Tensor,
        side: usize,
        stride: usize,
        before: usize,
        activation: Activation,
    ) -> Result<Tensor> {
        let op = DepthwiseOp { kernel: self.kernel, side, stride, before, activation };
        x.apply_op3_no_bwd(&self.weight, &self.bias, &op)
    }
}

/// `x += y` in place; a shorter `y` is added to each run of its length.
pub(super) fn add(x: &Tensor, y: &Tensor) -> Result<()> {
    x.inplace_op2(y, &RowOp { step: RowStep::Add, activation: Activation::None })
}

/// `x = a(x · factors)` in place, with one factor for each channel.
pub(super) fn scale(x: &Tensor, factors: &Tensor, activation: Activation) -> Result<()> {
    x.inplace_op2(factors, &RowOp { step: RowStep::Multiply, activation })
}

/// Every channel twice, side by side: a depthwise convolution with two kernels for each channel becomes one
/// with one kernel.
pub(super) fn doubled(x: &Tensor) -> Result<Tensor> {
    let (positions, channels) = x.dims2()?;
    x.unsqueeze(2)?.broadcast_as((positions, channels, 2))?.reshape((positions, 2 * channels))
}

/// The 3x3 patches of stride 2 of a picture (3, side, side), with `before` rows of zeros before the first
/// row: (⌈side / 2⌉², channel · 9 + tap).
pub(super) fn patches(picture: &[f32], side: usize, before: usize) -> Result<Tensor> {
    let size = side.div_ceil(2);
    let mut out = vec![0f32; size * size * 27];
    for (position, patch) in out.chunks_exact_mut(27).enumerate() {
        let (row, column) = (position / size * 2, position % size * 2);
        for (i, value) in patch.iter_mut().enumerate() {
            let (channel, y, x) = (i / 9, row + i % 9 / 3, column + i % 3);
            if (before..side + before).contains(&y) && (before..side + before).contains(&x) {
                *value = picture[(channel * side + y - before) * side + x - before];
            }
        }
    }
    Tensor::from_vec(out, (size * size, 27), &Device::Cpu)
}

/// A depthwise convolution of (positions, channels) with (taps, channels), plus (channels).
struct DepthwiseOp {
    kernel: usize,
    side: usize,
    stride: usize,
    before: usize,
    activation: Activation,
}

/// Channels that are summed in registers at once.
const LANES: usize = 32;

impl CustomOp3 for DepthwiseOp {
    fn name(&self) -> &'static str {
        "depthwise"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        _: &Layout,
        bias: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let channels = x_layout.shape().dims2()?.1;
        let (x, weight, bias) = (x.as_slice::<f32>()?, weight.as_slice::<f32>()?, bias.as_slice::<f32>()?);
        let size = self.side.div_ceil(self.stride);
        let mut out = vec![0f32; size * size * channels];
        pulp::Arch::new().dispatch(DepthwiseKernel { op: self, x, weight, bias, out: &mut out, channels });
        Ok((CpuStorage::F32(out), (size * size, channels).into()))
    }
}

// Code that `pulp` dispatches uses loops and no closures: a closure that is not inlined is compiled without
// wide vectors.

struct DepthwiseKernel<'a> {
    op: &'a DepthwiseOp,
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    out: &'a mut [f32],
    channels: usize,
}

impl pulp::WithSimd for DepthwiseKernel<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let DepthwiseKernel { op, x, weight, bias, out, channels } = self;
        let size = op.side.div_ceil(op.stride);
        // Offsets of the taps inside the picture: of the tap's first weight, and of the position's first
        // number.
        let mut taps = Vec::with_capacity(op.kernel * op.kernel);
        for (position, out) in out.chunks_exact_mut(channels).enumerate() {
            let (row, column) = (position / size * op.stride, position % size * op.stride);
            let inside = |at: usize| (op.before..op.side + op.before).contains(&at);
            taps.clear();
            for tap in 0..op.kernel * op.kernel {
                let (y, x) = (row + tap / op.kernel, column + tap % op.kernel);
                if inside(y) && inside(x) {
                    taps.push((tap * channels, ((y - op.before) * op.side + x - op.before) * channels));
                }
            }
            for (block, out) in out.chunks_mut(LANES).enumerate() {
                let from = block * LANES;
                if let Ok(out) = <&mut [f32; LANES]>::try_from(&mut *out) {
                    let mut sums = lanes(bias, from);
                    for (tap, at) in &taps {
                        let (x, w) = (lanes(x, at + from), lanes(weight, tap + from));
                        for ((sum, x), w) in sums.iter_mut().zip(x).zip(w) {
                            *sum += x * w;
                        }
                    }
                    op.activation.apply(&mut sums);
                    *out = sums;
                } else {
                    for (i, out) in out.iter_mut().enumerate() {
                        let product = |(tap, at): &(usize, usize)| x[at + from + i] * weight[tap + from + i];
                        *out = bias[from + i] + taps.iter().map(product).sum::<f32>();
                    }
                    op.activation.apply(out);
                }
            }
        }
    }
}

#[inline(always)]
fn lanes(values: &[f32], from: usize) -> [f32; LANES] {
    let mut out = [0f32; LANES];
    out.copy_from_slice(&values[from..from + LANES]);
    out
}

#[derive(Debug, Clone, Copy)]
enum RowStep {
    Add,
    Multiply,
}

/// Combines each row with one number for each channel, then applies the activation.
#[derive(Debug, Clone, Copy)]
struct RowOp {
    step: RowStep,
    activation: Activation,
}

impl InplaceOp2 for RowOp {
    fn name(&self) -> &'static str {
        "row"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, _: &Layout, y: &CpuStorage, _: &Layout) -> Result<()> {
        let (CpuStorage::F32(x), CpuStorage::F32(y)) = (x, y) else { return Err(not_f32()) };
        pulp::Arch::new().dispatch(RowKernel { op: *self, x, y });
        Ok(())
    }
}

struct RowKernel<'a> {
    op: RowOp,
    x: &'a mut [f32],
    y: &'a [f32],
}

impl pulp::WithSimd for RowKernel<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let RowKernel { op: RowOp { step, activation }, x, y } = self;
        for row in x.chunks_exact_mut(y.len()) {
            match step {
                RowStep::Add => {
                    for (x, y) in row.iter_mut().zip(y) {
                        *x += y;
                    }
                }
                RowStep::Multiply => {
                    for (x, y) in row.iter_mut().zip(y) {
                        *x *= y;
                    }
                }
            }
            activation.apply(row);
        }
    }
}

fn not_f32() -> candle_core::Error {
    candle_core::Error::Msg("expected f32 tensors".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gelu_equals_that_of_pytorch() {
        // torch.nn.functional.gelu of float64.
        let expected = [
            (-10.0, 0.0),
            (-5.0, -1.433_258e-6),
            (-3.0, -0.004_049_694),
            (-1.0, -0.158_655_26),
            (-0.1, -0.046_017_216),
            (0.0, 0.0),
            (0.5, 0.345_731_23),
            (2.0, 1.954_499_7),
            (7.0, 7.0),
        ];
        for (x, y) in expected {
            assert!((gelu(x) - y).abs() < 2e-6, "{x}: {} {y}", gelu(x));
        }
    }
    #[test]
    fn approximations_of_gelu_follow_their_formulas() {
        for i in -1200..=1200 {
            let x = i as f32 / 100.0;
            let mut values = [x, x];
            Activation::GeluTanh.apply(&mut values[..1]);
            Activation::QuickGelu.apply(&mut values[1..]);
            let x = f64::from(x);
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            let expected = [0.5 * x * (1.0 + inner.tanh()), x / (1.0 + (-1.702 * x).exp())];
            for (value, expected) in values.iter().zip(expected) {
                assert!((f64::from(*value) - expected).abs() < 4e-6, "{x}: {value} {expected}");
            }
        }
        let mut values = [f32::NAN];
        Activation::QuickGelu.apply(&mut values);
        assert!(values[0].is_nan());
    }
}
