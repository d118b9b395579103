//! Rows of `f32` kept as two planes of 16-bit halves, and dot products over them.
//!
//! The high half of a value is its sign, exponent and first 7 bits of fraction (a bfloat16, cut off); the
//! low half is the rest. Together they are the value, bit for bit. The high plane alone is enough to walk a
//! graph and takes half the memory traffic: each value is off by less than 2^-7 of itself, towards zero.

use super::{Level, level};

/// Rows in two planes, row after row in each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Halves<'a> {
    pub(crate) high: &'a [u16],
    pub(crate) low: &'a [u16],
}

/// Splits values into their high and low halves.
pub(crate) fn split(values: &[f32]) -> (Vec<u16>, Vec<u16>) {
    values.iter().map(|x| x.to_bits()).map(|bits| ((bits >> 16) as u16, bits as u16)).unzip()
}

fn join(high: u16, low: u16) -> f32 {
    f32::from_bits(u32::from(high) << 16 | u32::from(low))
}

impl Halves<'_> {
    /// The values.
    pub(crate) fn to_vec(self) -> Vec<f32> {
        self.high.iter().zip(self.low).map(|(high, low)| join(*high, *low)).collect()
    }

    /// Dot products of whole rows with `x`, which is not empty, up to the shortest of what is given. Equal to [`super::dot`], bit for bit.
    pub(crate) fn dots(self, x: &[f32], out: &mut [f32]) {
        match level() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `detect` saw avx512f on this processor.
            Level::Avx512 => unsafe { rows_avx512(self, x, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `detect` saw avx2 and fma on this processor.
            Level::Avx2 => unsafe { rows_avx2(self, x, out) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: every aarch64 target of Rust's standard library has NEON.
            Level::Neon => unsafe { rows_neon(self, x, out) },
            Level::Scalar => rows_scalar(self, x, out),
        }
    }
}

/// Dot products of the high halves of the rows `ids` with `x`. An id beyond `high` gives NaN.
pub(crate) fn dots_high(high: &[u16], x: &[f32], ids: &[u32], out: &mut [f32]) {
    match level() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `detect` saw avx512f on this processor.
        Level::Avx512 => unsafe { picked_avx512(high, x, ids, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `detect` saw avx2 and fma on this processor.
        Level::Avx2 => unsafe { picked_avx2(high, x, ids, out) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: every aarch64 target of Rust's standard library has NEON.
        Level::Neon => unsafe { picked_neon(high, x, ids, out) },
        Level::Scalar => picked_scalar(high, x, ids, out),
    }
}

/// Rows that are asked for this far ahead: far enough to hide memory, near enough to stay in the cache.
const AHEAD: usize = 4;

/// Asks for a row of the high plane to be brought near.
#[inline(always)]
pub(crate) fn prefetch_row(high: &[u16], dim: usize, id: u32) {
    if let Some(row) = (id as usize).checked_mul(dim).and_then(|at| high.get(at..at.checked_add(dim)?)) {
        row.chunks(32).for_each(|line| prefetch(line.as_ptr()));
    }
}

/// Asks for the cache line at `place`; has no other effect, whatever the address.
#[inline(always)]
pub(crate) fn prefetch<T>(place: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86_64, and a prefetch never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(place.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

macro_rules! kernels {
    ($rows:ident, $picked:ident, $full:ident, $high:ident $(, $feature:literal)?) => {
        $(#[target_feature(enable = $feature)])?
        fn $rows(rows: Halves<'_>, x: &[f32], out: &mut [f32]) {
            let pairs = rows.high.chunks_exact(x.len()).zip(rows.low.chunks_exact(x.len()));
            for ((high, low), y) in pairs.zip(out) {
                *y = $full(high, low, x);
            }
        }

        $(#[target_feature(enable = $feature)])?
        fn $picked(high: &[u16], x: &[f32], ids: &[u32], out: &mut [f32]) {
            for (i, (id, y)) in ids.iter().zip(out).enumerate() {
                if let Some(next) = ids.get(i + AHEAD) {
                    prefetch_row(high, x.len(), *next);
                }
                let at = *id as usize * x.len();
                *y = high.get(at..at + x.len()).map_or(f32::NAN, |row| $high(row, x));
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
kernels!(rows_avx512, picked_avx512, full_avx512, high_avx512, "avx512f");
#[cfg(target_arch = "x86_64")]
kernels!(rows_avx2, picked_avx2, full_avx2, high_avx2, "avx2,fma");
#[cfg(target_arch = "aarch64")]
kernels!(rows_neon, picked_neon, full_neon, high_neon, "neon");
kernels!(rows_scalar, picked_scalar, full_scalar, high_scalar);

/// As `dot_scalar`, in the same order.
fn full_scalar(high: &[u16], low: &[u16], x: &[f32]) -> f32 {
    let n = high.len().min(low.len()).min(x.len());
    let whole = n / 8 * 8;
    let tail: f32 = (whole..n).map(|i| join(high[i], low[i]) * x[i]).sum();
    let mut sums = [0.0f32; 8];
    for ((high, low), x) in high[..whole].chunks(8).zip(low[..whole].chunks(8)).zip(x[..whole].chunks(8)) {
        for i in 0..8 {
            sums[i] += join(high[i], low[i]) * x[i];
        }
    }
    sums.iter().sum::<f32>() + tail
}

fn high_scalar(high: &[u16], x: &[f32]) -> f32 {
    let n = high.len().min(x.len());
    let whole = n / 8 * 8;
    let tail: f32 = (whole..n).map(|i| join(high[i], 0) * x[i]).sum();
    let mut sums = [0.0f32; 8];
    for (high, x) in high[..whole].chunks(8).zip(x[..whole].chunks(8)) {
        for i in 0..8 {
            sums[i] += join(high[i], 0) * x[i];
        }
    }
    sums.iter().sum::<f32>() + tail
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
fn full_avx512(high: &[u16], low: &[u16], x: &[f32]) -> f32 {
    use std::arch::x86_64::*;
    let n = high.len().min(low.len()).min(x.len());
    let mut sums = [_mm512_setzero_ps(); 4];
    let mut i = 0;
    while i + 64 <= n {
        for (j, sum) in sums.iter_mut().enumerate() {
            let at = i + 16 * j;
            // SAFETY: at + 16 <= i + 64 <= n, the length of the shortest slice.
            let (h, l, y) = unsafe {
                let h = _mm512_cvtepu16_epi32(_mm256_loadu_si256(high.as_ptr().add(at).cast()));
                let l = _mm512_cvtepu16_epi32(_mm256_loadu_si256(low.as_ptr().add(at).cast()));
                (h, l, _mm512_loadu_ps(x.as_ptr().add(at)))
            };
            let value = _mm512_castsi512_ps(_mm512_or_si512(_mm512_slli_epi32(h, 16), l));
            *sum = _mm512_fmadd_ps(value, y, *sum);
        }
        i += 64;
    }
    while i < n {
        let left = (n - i).min(16);
        let mut value = [0.0; 16];
        let mut y = [0.0; 16];
        for j in 0..left {
            value[j] = join(high[i + j], low[i + j]);
            y[j] = x[i + j];
        }
        // SAFETY: both arrays have 16 values.
        let (value, y) = unsafe { (_mm512_loadu_ps(value.as_ptr()), _mm512_loadu_ps(y.as_ptr())) };
        sums[0] = _mm512_fmadd_ps(value, y, sums[0]);
        i += left;
    }
    _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
fn high_avx512(high: &[u16], x: &[f32]) -> f32 {
    use std::arch::x86_64::*;
    let n = high.len().min(x.len());
    let mut sums = [_mm512_setzero_ps(); 4];
    let mut i = 0;
    while i + 64 <= n {
        for (j, sum) in sums.iter_mut().enumerate() {
            let at = i + 16 * j;
            // SAFETY: at + 16 <= i + 64 <= n, the length of the shorter slice.
            let (h, y) = unsafe {
                let h = _mm512_cvtepu16_epi32(_mm256_loadu_si256(high.as_ptr().add(at).cast()));
                (h, _mm512_loadu_ps(x.as_ptr().add(at)))
            };
            *sum = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(h, 16)), y, *sum);
        }
        i += 64;
    }
    let tail: f32 = (i..n).map(|i| join(high[i], 0) * x[i]).sum();
    _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]))) + tail
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[inline]
fn sum_avx2(sums: [std::arch::x86_64::__m256; 4]) -> f32 {
    use std::arch::x86_64::*;
    let sum = _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3]));
    let mut lanes = [0.0f32; 8];
    // SAFETY: `lanes` has room for 8 values.
    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sum) };
    lanes.iter().sum()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[inline]
fn full_avx2(high: &[u16], low: &[u16], x: &[f32]) -> f32 {
    use std::arch::x86_64::*;
    let n = high.len().min(low.len()).min(x.len());
    let mut sums = [_mm256_setzero_ps(); 4];
    let mut i = 0;
    while i + 8 <= n {
        // As `dot_avx2`: four sums in turn while 32 are left, then the first.
        let turn = if i / 32 * 32 + 32 <= n { i / 8 % 4 } else { 0 };
        // SAFETY: i + 8 <= n, the length of the shortest slice.
        let (h, l, y) = unsafe {
            let h = _mm256_cvtepu16_epi32(_mm_loadu_si128(high.as_ptr().add(i).cast()));
            let l = _mm256_cvtepu16_epi32(_mm_loadu_si128(low.as_ptr().add(i).cast()));
            (h, l, _mm256_loadu_ps(x.as_ptr().add(i)))
        };
        let value = _mm256_castsi256_ps(_mm256_or_si256(_mm256_slli_epi32(h, 16), l));
        sums[turn] = _mm256_fmadd_ps(value, y, sums[turn]);
        i += 8;
    }
    let tail: f32 = (i..n).map(|i| join(high[i], low[i]) * x[i]).sum();
    sum_avx2(sums) + tail
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[inline]
fn high_avx2(high: &[u16], x: &[f32]) -> f32 {
    use std::arch::x86_64::*;
    let n = high.len().min(x.len());
    let mut sums = [_mm256_setzero_ps(); 4];
    let mut i = 0;
    while i + 32 <= n {
        for (j, sum) in sums.iter_mut().enumerate() {
            let at = i + 8 * j;
            // SAFETY: at + 8 <= i + 32 <= n, the length of the shorter slice.
            let (h, y) = unsafe {
                let h = _mm256_cvtepu16_epi32(_mm_loadu_si128(high.as_ptr().add(at).cast()));
                (h, _mm256_loadu_ps(x.as_ptr().add(at)))
            };
            *sum = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(h, 16)), y, *sum);
        }
        i += 32;
    }
    let tail: f32 = (i..n).map(|i| join(high[i], 0) * x[i]).sum();
    sum_avx2(sums) + tail
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
#[inline]
fn full_neon(high: &[u16], low: &[u16], x: &[f32]) -> f32 {
    use std::arch::aarch64::*;
    let n = high.len().min(low.len()).min(x.len());
    let mut sums = [vdupq_n_f32(0.0); 4];
    let mut i = 0;
    while i + 16 <= n {
        for (j, sum) in sums.iter_mut().enumerate() {
            let at = i + 4 * j;
            // SAFETY: at + 4 <= i + 16 <= n, the length of the shortest slice.
            let (h, l, y) = unsafe {
                (vld1_u16(high.as_ptr().add(at)), vld1_u16(low.as_ptr().add(at)), vld1q_f32(x.as_ptr().add(at)))
            };
            let value = vreinterpretq_f32_u32(vorrq_u32(vshlq_n_u32::<16>(vmovl_u16(h)), vmovl_u16(l)));
            *sum = vfmaq_f32(*sum, value, y);
        }
        i += 16;
    }
    let sum = vaddq_f32(vaddq_f32(sums[0], sums[1]), vaddq_f32(sums[2], sums[3]));
    let tail: f32 = (i..n).map(|i| join(high[i], low[i]) * x[i]).sum();
    vaddvq_f32(sum) + tail
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
#[inline]
fn high_neon(high: &[u16], x: &[f32]) -> f32 {
    use std::arch::aarch64::*;
    let n = high.len().min(x.len());
    let mut sums = [vdupq_n_f32(0.0); 4];
    let mut i = 0;
    while i + 16 <= n {
        for (j, sum) in sums.iter_mut().enumerate() {
            let at = i + 4 * j;
            // SAFETY: at + 4 <= i + 16 <= n, the length of the shorter slice.
            let (h, y) = unsafe { (vld1_u16(high.as_ptr().add(at)), vld1q_f32(x.as_ptr().add(at))) };
            *sum = vfmaq_f32(*sum, vreinterpretq_f32_u32(vshlq_n_u32::<16>(vmovl_u16(h))), y);
        }
        i += 16;
    }
    let sum = vaddq_f32(vaddq_f32(sums[0], sums[1]), vaddq_f32(sums[2], sums[3]));
    let tail: f32 = (i..n).map(|i| join(high[i], 0) * x[i]).sum();
    vaddvq_f32(sum) + tail
}

#[cfg(test)]
mod tests {
    use super::super::tests::vector;
    use super::*;
    use crate::dot;

    #[test]
    fn halves_are_the_values_bit_for_bit() {
        let odd = [0.0, -0.0, 1.0, -1.5, f32::MIN_POSITIVE / 3.0, f32::MAX, 1.0 / 3.0];
        let (high, low) = split(&odd);
        let back = Halves { high: &high, low: &low }.to_vec();
        assert!(back.iter().zip(&odd).all(|(a, b)| a.to_bits() == b.to_bits()), "{back:?}");
    }

    #[test]
    fn full_products_equal_dot_bit_for_bit() {
        for n in (1..200).chain([255, 256, 257, 1000, 4099]) {
            let (rows, x) = (vector(3 * n, 1), vector(n, 2));
            let (high, low) = split(&rows);
            let halves = Halves { high: &high, low: &low };
            let mut out = [9.0; 3];
            halves.dots(&x, &mut out);
            for (row, y) in rows.chunks(n).zip(&out) {
                assert_eq!(*y, dot(row, &x), "n {n}");
                let near = |found: f32| assert!((found - y).abs() < 1e-5, "n {n}: {found}, not {y}");
                let (high, low) = split(row);
                near(full_scalar(&high, &low, &x));
                #[cfg(target_arch = "x86_64")]
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: just detected.
                    near(unsafe { full_avx2(&high, &low, &x) });
                }
            }
        }
    }

    #[test]
    fn high_halves_are_near_and_rows_beyond_the_plane_are_nan() {
        for n in (1..150).chain([256, 1000]) {
            let (rows, x) = (vector(9 * n, 5), vector(n, 6));
            let (high, _) = split(&rows);
            let mut out = [7.0; 10];
            dots_high(&high, &x, &[8, 0, 1, 2, 3, 4, 5, 6, 7, 9], &mut out);
            for (id, y) in [8, 0, 1, 2, 3, 4, 5, 6, 7].into_iter().zip(&out) {
                let row = &rows[id * n..][..n];
                let bound: f32 = row.iter().zip(&x).map(|(a, b)| (a * b).abs() / 128.0).sum::<f32>() + 1e-6;
                let cut = &high[id * n..][..n];
                let mut kernels = vec![*y, high_scalar(cut, &x)];
                #[cfg(target_arch = "x86_64")]
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: just detected.
                    kernels.push(unsafe { high_avx2(cut, &x) });
                }
                assert!(kernels.iter().all(|y| (y - dot(row, &x)).abs() <= bound), "n {n} id {id}: {kernels:?}");
            }
            assert!(out[9].is_nan());
        }
    }
}
