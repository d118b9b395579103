//! Eight f32 numbers at once: AVX2 with FMA where the processor has it, and arrays elsewhere.

use bytemuck::{Pod, Zeroable};

/// The number of channels in a block of channels.
pub(super) const LANES: usize = 8;
/// The values of one block of channels at one position.
#[derive(Debug, Clone, Copy, Default, PartialEq, Pod, Zeroable)]
#[repr(C, align(32))]
pub(super) struct LaneBlock(pub [f32; LANES]);

/// Arithmetic on blocks. `#[inline(always)]` on all methods: they must be compiled for the processor that the
/// caller is compiled for.
pub(super) trait Lanes: Copy {
    type V: Copy;
    fn load(self, block: &LaneBlock) -> Self::V;
    fn store(self, v: Self::V) -> LaneBlock;
    fn splat(self, x: f32) -> Self::V;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// a * b + c
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Limits to 0..=6.
    fn relu6(self, a: Self::V) -> Self::V;
    /// Runs a kernel as a separate function. The compiler then allocates registers for its loop alone.
    fn call<K: LaneKernel>(self, kernel: K) -> K::Output;
}

/// Work that is compiled for the processor.
pub(super) trait LaneKernel {
    type Output;
    fn run<L: Lanes>(self, lanes: L) -> Self::Output;
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{LaneBlock, LaneKernel, Lanes};
    use pulp::{f32x8, x86::V3};

    #[derive(Clone, Copy)]
    pub(super) struct Avx2(pub V3);

    impl Lanes for Avx2 {
        type V = f32x8;
        #[inline(always)]
        fn load(self, block: &LaneBlock) -> f32x8 {
            pulp::cast(block.0)
        }
        #[inline(always)]
        fn store(self, v: f32x8) -> LaneBlock {
            LaneBlock(pulp::cast(v))
        }
        #[inline(always)]
        fn splat(self, x: f32) -> f32x8 {
            self.0.splat_f32x8(x)
        }
        #[inline(always)]
        fn add(self, a: f32x8, b: f32x8) -> f32x8 {
            self.0.add_f32x8(a, b)
        }
        #[inline(always)]
        fn mul_add(self, a: f32x8, b: f32x8, c: f32x8) -> f32x8 {
            self.0.mul_add_f32x8(a, b, c)
        }
        #[inline(always)]
        fn relu6(self, a: f32x8) -> f32x8 {
            self.0.min_f32x8(self.0.max_f32x8(a, self.0.splat_f32x8(0.0)), self.0.splat_f32x8(6.0))
        }
        #[inline(always)]
        fn call<K: LaneKernel>(self, kernel: K) -> K::Output {
            run(self.0, kernel)
        }
    }

    pub(super) struct WithAvx2<K>(pub V3, pub K);
    impl<K: LaneKernel> pulp::NullaryFnOnce for WithAvx2<K> {
        type Output = K::Output;
        #[inline(always)]
        fn call(self) -> K::Output {
            self.1.run(Avx2(self.0))
        }
    }
    #[inline(always)]
    pub(super) fn run<K: LaneKernel>(v3: V3, kernel: K) -> K::Output {
        v3.vectorize(WithAvx2(v3, kernel))
    }
}

/// Arrays, which the compiler turns into the vector instructions of the target.
#[derive(Clone, Copy)]
pub(super) struct Portable;

impl Lanes for Portable {
    type V = [f32; LANES];
    #[inline(always)]
    fn load(self, block: &LaneBlock) -> [f32; LANES] {
        block.0
    }
    #[inline(always)]
    fn store(self, v: [f32; LANES]) -> LaneBlock {
        LaneBlock(v)
    }
    #[inline(always)]
    fn splat(self, x: f32) -> [f32; LANES] {
        [x; LANES]
    }
    #[inline(always)]
    fn add(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn mul_add(self, a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] {
        // One instruction on 64-bit ARM, a call of a function on old x86 processors.
        std::array::from_fn(
            |i| if cfg!(target_arch = "aarch64") { a[i].mul_add(b[i], c[i]) } else { a[i] * b[i] + c[i] },
        )
    }
    #[inline(always)]
    fn relu6(self, a: [f32; LANES]) -> [f32; LANES] {
        a.map(|x| x.clamp(0.0, 6.0))
    }
    #[inline(always)]
    fn call<K: LaneKernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }
}

/// Runs a kernel with the best arithmetic of this processor.
pub(super) fn run<K: LaneKernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    if let Some(v3) = pulp::x86::V3::try_new() {
        return avx2::run(v3, kernel);
    }
    kernel.run(Portable)
}

/// Runs a kernel with arrays.
#[cfg(test)]
pub(super) fn run_portable<K: LaneKernel>(kernel: K) -> K::Output {
    kernel.run(Portable)
}
