//! Convolutions for the CPU, of one picture.
//!
//! Activations lie as (positions, channels), row after row of the picture: then a 1x1 convolution is one matrix product, and a depthwise one runs over neighbouring
//! channels. candle's own grouped convolution makes one convolution of each channel, which is hundreds of times slower.

use candle_core::{CpuStorage, CustomOp3, Device, InplaceOp2, Layout, Result, Shape, Tensor};

/// What follows a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::encode) enum Activation {
    None,
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// `x Φ(x)`, with the error function and not its approximation by tanh.
    Gelu,
}

impl Activation {
    #[inline(always)]
    fn apply(self, values: &mut [f32]) {
        match self {
            Activation::None => (),
            Activation::Relu => {
                for x in values {
                    // `max` would make 0 of what is no number, and hide that the network has failed.
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
        }
    }
}

/// `x / 2 · (1 + erf(x / √2))`. The error function is `t P(t²) / Q(t²)` for `t` cut to ±4, within 5e-7: the rational function that Eigen and XLA compute it with.
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
    let square = t * t;
    let (mut p, mut q) = (P[0], Q[0]);
    for c in &P[1..] {
        p = p * square + c;
    }
    for c in &Q[1..] {
        q = q * square + c;
    }
    0.5 * x * (1.0 + t * p / q)
}

/// A 1x1 convolution, or a matrix product of patches: `a(x W + b)`.
pub(in crate::encode) struct Pointwise {
    /// (inputs, outputs).
    weight: Tensor,
    bias: Tensor,
}

impl Pointwise {
    /// Of a weight (outputs, inputs), row after row.
    pub(in crate::encode) fn new(weight: Vec<f32>, bias: Vec<f32>) -> Result<Pointwise> {
        let outputs = bias.len();
        let weight = Tensor::from_vec(weight, (outputs, ()), &Device::Cpu)?;
        Ok(Pointwise { weight: weight.t()?.contiguous()?, bias: Tensor::from_vec(bias, outputs, &Device::Cpu)? })
    }

    /// Its output channels.
    pub(in crate::encode) fn outputs(&self) -> usize {
        self.bias.elem_count()
    }

    /// (positions, inputs) to (positions, outputs).
    pub(in crate::encode) fn apply(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        let y = x.matmul(&self.weight)?;
        y.inplace_op2(&self.bias, &Each(Step::Plus, activation))?;
        Ok(y)
    }
}

/// A convolution of each channel with a kernel of its own.
pub(in crate::encode) struct Depthwise {
    /// (taps, channels).
    weight: Tensor,
    bias: Tensor,
    /// Pixels along a side of the kernel.
    kernel: usize,
}

impl Depthwise {
    /// Of a weight (channels, taps), row after row.
    pub(in crate::encode) fn new(weight: Vec<f32>, bias: Vec<f32>) -> Result<Depthwise> {
        let channels = bias.len();
        let kernel = (weight.len() / channels.max(1)).isqrt();
        let weight = Tensor::from_vec(weight, (channels, kernel * kernel), &Device::Cpu)?;
        Ok(Depthwise {
            weight: weight.t()?.contiguous()?,
            bias: Tensor::from_vec(bias, channels, &Device::Cpu)?,
            kernel,
        })
    }

    /// (side², channels) to (⌈side / stride⌉², channels), with `before` rows of zeros before the first, and as many behind the last as are needed.
    pub(in crate::encode) fn apply(
        &self,
        x: &Tensor,
        side: usize,
        stride: usize,
        before: usize,
        activation: Activation,
    ) -> Result<Tensor> {
        let taps = Taps { kernel: self.kernel, side, stride, before, activation };
        x.apply_op3_no_bwd(&self.weight, &self.bias, &taps)
    }
}

/// `x += y`.
pub(in crate::encode) fn add(x: &Tensor, y: &Tensor) -> Result<()> {
    x.inplace_op2(y, &Each(Step::Plus, Activation::None))
}

/// `x = a(x · factors)`, a factor for each channel.
pub(in crate::encode) fn scale(x: &Tensor, factors: &Tensor, activation: Activation) -> Result<()> {
    x.inplace_op2(factors, &Each(Step::Times, activation))
}

/// Every channel twice, one beside the other: a depthwise convolution with two kernels for each channel becomes one with one.
pub(in crate::encode) fn doubled(x: &Tensor) -> Result<Tensor> {
    let (positions, channels) = x.dims2()?;
    x.unsqueeze(2)?.broadcast_as((positions, channels, 2))?.reshape((positions, 2 * channels))
}

/// The 3x3 patches of stride 2 of a picture (3, side, side), with `before` rows of zeros before the first: (⌈side / 2⌉², channel · 9 + tap).
pub(in crate::encode) fn patches(picture: &[f32], side: usize, before: usize) -> Result<Tensor> {
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
struct Taps {
    kernel: usize,
    side: usize,
    stride: usize,
    before: usize,
    activation: Activation,
}

/// Channels that are summed in registers at once.
const LANES: usize = 32;

impl CustomOp3 for Taps {
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
        pulp::Arch::new().dispatch(TapsOf { taps: self, x, weight, bias, out: &mut out, channels });
        Ok((CpuStorage::F32(out), (size * size, channels).into()))
    }
}

// Loops, not closures, in what runs by `pulp`: a closure that is not inlined is compiled without the processor's wide vectors.

struct TapsOf<'a> {
    taps: &'a Taps,
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    out: &'a mut [f32],
    channels: usize,
}

impl pulp::WithSimd for TapsOf<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let TapsOf { taps, x, weight, bias, out, channels } = self;
        taps.run(x, weight, bias, out, channels);
    }
}

impl Taps {
    #[inline(always)]
    fn run(&self, x: &[f32], weight: &[f32], bias: &[f32], out: &mut [f32], channels: usize) {
        let size = self.side.div_ceil(self.stride);
        // Where the window's taps lie: (first weight of the tap, first number of the position).
        let mut taps = Vec::with_capacity(self.kernel * self.kernel);
        for (position, out) in out.chunks_exact_mut(channels).enumerate() {
            let (row, column) = (position / size * self.stride, position % size * self.stride);
            let inside = |at: usize| (self.before..self.side + self.before).contains(&at);
            taps.clear();
            for tap in 0..self.kernel * self.kernel {
                let (y, x) = (row + tap / self.kernel, column + tap % self.kernel);
                if inside(y) && inside(x) {
                    taps.push((tap * channels, ((y - self.before) * self.side + x - self.before) * channels));
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
                    self.activation.apply(&mut sums);
                    *out = sums;
                } else {
                    for (i, out) in out.iter_mut().enumerate() {
                        let product = |(tap, at): &(usize, usize)| x[at + from + i] * weight[tap + from + i];
                        *out = bias[from + i] + taps.iter().map(product).sum::<f32>();
                    }
                    self.activation.apply(out);
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

/// What is done to each position with one number for each channel.
#[derive(Debug, Clone, Copy)]
enum Step {
    Plus,
    Times,
}

/// A step with each position, then the activation.
#[derive(Debug, Clone, Copy)]
struct Each(Step, Activation);

impl InplaceOp2 for Each {
    fn name(&self) -> &'static str {
        "each"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, _: &Layout, y: &CpuStorage, _: &Layout) -> Result<()> {
        let (CpuStorage::F32(x), CpuStorage::F32(y)) = (x, y) else { return Err(not_f32()) };
        pulp::Arch::new().dispatch(EachOf { each: *self, x, y });
        Ok(())
    }
}

struct EachOf<'a> {
    each: Each,
    x: &'a mut [f32],
    y: &'a [f32],
}

impl pulp::WithSimd for EachOf<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let EachOf { each: Each(step, activation), x, y } = self;
        for row in x.chunks_exact_mut(y.len()) {
            match step {
                Step::Plus => {
                    for (x, y) in row.iter_mut().zip(y) {
                        *x += y;
                    }
                }
                Step::Times => {
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
    candle_core::Error::Msg("expected numbers of f32".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gelu_is_that_of_pytorch() {
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
}
