//! Dot products with the widest instructions of the processor, which are detected once at run time. Only this
//! module and `map` contain `unsafe` code.
//!
//! Each kernel adds in a fixed order. A result depends on the processor, but not on threads, nor on whether
//! [`dot`] or [`gemv`] computed it.

mod planes;

use std::sync::OnceLock;

use rayon::prelude::*;

pub(crate) use planes::{codes_picked, codes_rows, planes_dots, prefetch, prefetch_row};

#[derive(Clone, Copy, Debug)]
enum SimdLevel {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Plain loops, which the compiler vectorizes (NEON on aarch64).
    Scalar,
}

fn level() -> SimdLevel {
    static LEVEL: OnceLock<SimdLevel> = OnceLock::new();
    *LEVEL.get_or_init(detect)
}

#[cfg(target_arch = "x86_64")]
fn detect() -> SimdLevel {
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
        SimdLevel::Avx512
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        SimdLevel::Avx2
    } else {
        SimdLevel::Scalar
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> SimdLevel {
    SimdLevel::Scalar
}

/// Calls one of three kernels: for AVX-512 (f and bw), for AVX2 with FMA, and for any processor.
macro_rules! dispatch {
    ($avx512:ident, $avx2:ident, $scalar:ident, $arguments:tt) => {
        match $crate::simd::level() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `detect` found avx512f and avx512bw on this processor.
            $crate::simd::SimdLevel::Avx512 => unsafe { $avx512 $arguments },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `detect` found avx2 and fma on this processor.
            $crate::simd::SimdLevel::Avx2 => unsafe { $avx2 $arguments },
            $crate::simd::SimdLevel::Scalar => $scalar $arguments,
        }
    };
}
use dispatch;

/// Sum of `a[i] * b[i]`, over the shorter of the two.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    dispatch!(dot_avx512, dot_avx2, dot_scalar, (a, b))
}

/// Copies `x` into `out`, scaled by a power of two so that its largest value is at least 0.5 and below 1.
/// This avoids overflow and underflow of products. Returns the exponent of the power that reverts the
/// scaling, 0 for zeros.
pub(crate) fn scale_into(x: &[f32], out: &mut Vec<f32>) -> i32 {
    let most = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let exponent = if most > 0.0 { 1 + ((f64::from(most).to_bits() >> 52) as i32 - 1023) } else { 0 };
    let by = f64::from(-exponent).exp2();
    out.clear();
    out.extend(x.iter().map(|x| (f64::from(*x) * by) as f32));
    exponent
}

/// `x` 2^`power`; infinite on overflow.
pub(crate) fn times_power(x: f32, power: i32) -> f32 {
    (f64::from(x) * f64::from(power).exp2()) as f32 + 0.0
}

/// Matrix times vector: `out[i] = matrix[i] · x`. The matrix has `rows` rows of `cols` values, row after row.
///
/// Large products use all threads of rayon.
///
/// # Panics
///
/// If the length of `matrix`, `x` or `out` does not match `rows` and `cols`.
pub fn gemv(matrix: &[f32], rows: usize, cols: usize, x: &[f32], out: &mut [f32]) {
    assert_eq!(Some(matrix.len()), rows.checked_mul(cols), "matrix has rows * cols values");
    assert_eq!(x.len(), cols, "x has cols values");
    assert_eq!(out.len(), rows, "out has rows values");
    if cols == 0 {
        return out.fill(0.0);
    }
    if matrix.len() > 1 << 20 {
        let block = ((1 << 17) / cols).max(1);
        let blocks = matrix.par_chunks(block * cols).zip(out.par_chunks_mut(block));
        blocks.for_each(|(matrix, out)| rows_dot(matrix, x, out));
    } else {
        rows_dot(matrix, x, out);
    }
}

/// [`gemv`] on this thread. `x` is not empty. Computes as many rows as both `matrix` and `out` have.
fn rows_dot(matrix: &[f32], x: &[f32], out: &mut [f32]) {
    dispatch!(rows_avx512, rows_avx2, rows_scalar, (matrix, x, out));
}

macro_rules! rows {
    ($name:ident, $dot:ident $(, $feature:literal)?) => {
        $(#[target_feature(enable = $feature)])?
        fn $name(matrix: &[f32], x: &[f32], out: &mut [f32]) {
            for (row, y) in matrix.chunks_exact(x.len()).zip(out) {
                *y = $dot(row, x);
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
rows!(rows_avx512, dot_avx512, "avx512f");
#[cfg(target_arch = "x86_64")]
rows!(rows_avx2, dot_avx2, "avx2,fma");
rows!(rows_scalar, dot_scalar);

/// Eight running sums, which the compiler can keep in one register.
fn dot_scalar(a: &[f32], b: &[f32]) -> f32 {
    let n = a.len().min(b.len());
    let (a, b) = (a[..n].chunks_exact(8), b[..n].chunks_exact(8));
    let tail: f32 = a.remainder().iter().zip(b.remainder()).map(|(x, y)| x * y).sum();
    let mut sums = [0.0f32; 8];
    for (a, b) in a.zip(b) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f32>() + tail
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
fn dot_avx512(a: &[f32], b: &[f32]) -> f32 {
    use std::arch::x86_64::*;
    let n = a.len().min(b.len());
    let (a, b) = (a.as_ptr(), b.as_ptr());
    let mut sums = [_mm512_setzero_ps(); 4];
    let mut i = 0;
    while i + 64 <= n {
        for (j, sum) in sums.iter_mut().enumerate() {
            // SAFETY: i + 16 j + 16 <= i + 64 <= n, the length of the shorter slice.
            let (x, y) = unsafe { (_mm512_loadu_ps(a.add(i + 16 * j)), _mm512_loadu_ps(b.add(i + 16 * j))) };
            *sum = _mm512_fmadd_ps(x, y, *sum);
        }
        i += 64;
    }
    while i < n {
        let left = (n - i).min(16);
        let mask = (0xffff_u32 >> (16 - left)) as __mmask16;
        // SAFETY: the mask reads `left` values from i, and i + left <= n.
        let (x, y) = unsafe { (_mm512_maskz_loadu_ps(mask, a.add(i)), _mm512_maskz_loadu_ps(mask, b.add(i))) };
        sums[0] = _mm512_fmadd_ps(x, y, sums[0]);
        i += left;
    }
    _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[inline]
fn dot_avx2(a: &[f32], b: &[f32]) -> f32 {
    use std::arch::x86_64::*;
    let n = a.len().min(b.len());
    let (pa, pb) = (a.as_ptr(), b.as_ptr());
    let mut sums = [_mm256_setzero_ps(); 4];
    let mut i = 0;
    while i + 32 <= n {
        for (j, sum) in sums.iter_mut().enumerate() {
            // SAFETY: i + 8 j + 8 <= i + 32 <= n, the length of the shorter slice.
            let (x, y) = unsafe { (_mm256_loadu_ps(pa.add(i + 8 * j)), _mm256_loadu_ps(pb.add(i + 8 * j))) };
            *sum = _mm256_fmadd_ps(x, y, *sum);
        }
        i += 32;
    }
    while i + 8 <= n {
        // SAFETY: i + 8 <= n.
        let (x, y) = unsafe { (_mm256_loadu_ps(pa.add(i)), _mm256_loadu_ps(pb.add(i))) };
        sums[0] = _mm256_fmadd_ps(x, y, sums[0]);
        i += 8;
    }
    let sum = _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3]));
    let mut lanes = [0.0f32; 8];
    // SAFETY: `lanes` has room for 8 values.
    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sum) };
    let tail: f32 = a[i..n].iter().zip(&b[i..n]).map(|(x, y)| x * y).sum();
    lanes.iter().sum::<f32>() + tail
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn vector(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        let mut v: Vec<f32> = (0..n).map(|_| next()).collect();
        let norm = v.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-9);
        v.iter_mut().for_each(|x| *x /= norm);
        v
    }

    #[test]
    fn every_kernel_agrees_with_f64() {
        for n in (0..200).chain([255, 256, 257, 1000, 4096, 4099]) {
            let (a, b) = (vector(n, 1), vector(n, 2));
            let exact: f64 = a.iter().zip(&b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
            let near = |found: f32| assert!((f64::from(found) - exact).abs() < 1e-5, "n {n}: {found}, not {exact}");
            near(dot(&a, &b));
            near(dot_scalar(&a, &b));
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: just detected.
                near(unsafe { dot_avx2(&a, &b) });
            }
        }
    }

    #[test]
    fn dot_uses_the_shorter_length() {
        assert_eq!(dot(&[1.0, 2.0], &[3.0]), 3.0);
        assert_eq!(dot(&[1.0; 70], &[1.0; 20]), 20.0);
        assert_eq!(dot(&[], &[1.0]), 0.0);
    }

    #[test]
    fn gemv_equals_dot_for_one_and_many_threads() {
        for (rows, cols) in [(0, 3), (3, 0), (7, 13), (1200, 1000)] {
            let (matrix, x) = (vector(rows * cols, 3), vector(cols, 4));
            let mut out = vec![9.0; rows];
            gemv(&matrix, rows, cols, &x, &mut out);
            for (i, y) in out.iter().enumerate() {
                assert_eq!(*y, dot(&matrix[i * cols..(i + 1) * cols], &x));
            }
        }
    }
}
