//! Kernels for rows in planes (see [`crate::packed`]): products of codes, and products of all planes.

use super::dispatch;

/// Dot products of the rows `ids` of codes, each as long as `x`, with `x`; 0 for an id out of range.
///
/// The caller makes sure that no sum exceeds an `i32`. Then all kernels give equal results.
pub(crate) fn codes_picked(codes: &[i8], x: &[i16], ids: &[u32], out: &mut [i32]) {
    dispatch!(picked_avx512, picked_avx2, picked_scalar, (codes, x, ids, out));
}

/// Dot products of all rows of codes with `x`, which is not empty.
pub(crate) fn codes_rows(codes: &[i8], x: &[i16], out: &mut [i32]) {
    dispatch!(codes_rows_avx512, codes_rows_avx2, codes_rows_scalar, (codes, x, out));
}

/// Dot products of all rows with `x`, which is not empty, without the power of two of each row. An empty
/// `third` means zeros.
pub(crate) fn planes_dots(first: &[i8], second: &[i8], third: &[u16], x: &[f32], out: &mut [f32]) {
    dispatch!(dots_avx512, dots_avx2, dots_scalar, (first, second, third, x, out));
}

/// Prefetch distance in rows: far enough to hide the latency of memory, near enough to stay in the cache.
const AHEAD: usize = 6;

/// Prefetches a row of `dim` values.
#[inline(always)]
pub(crate) fn prefetch_row<T>(plane: &[T], dim: usize, id: u32) {
    if let Some(row) = (id as usize).checked_mul(dim).and_then(|at| plane.get(at..at.checked_add(dim)?)) {
        row.chunks(64 / size_of::<T>()).for_each(|line| prefetch(line.as_ptr()));
    }
}

/// Prefetches the cache line at `address`. Any value is safe.
#[inline(always)]
pub(crate) fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86_64, and a prefetch never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

macro_rules! kernels {
    ($picked:ident, $codes_rows:ident, $dots:ident, $code:ident, $full:ident $(, $feature:literal)?) => {
        $(#[target_feature(enable = $feature)])?
        fn $picked(codes: &[i8], x: &[i16], ids: &[u32], out: &mut [i32]) {
            for (i, (id, y)) in ids.iter().zip(out).enumerate() {
                if let Some(next) = ids.get(i + AHEAD) {
                    prefetch_row(codes, x.len(), *next);
                }
                let at = *id as usize * x.len();
                *y = codes.get(at..at + x.len()).map_or(0, |row| $code(row, x));
            }
        }

        $(#[target_feature(enable = $feature)])?
        fn $codes_rows(codes: &[i8], x: &[i16], out: &mut [i32]) {
            for (row, y) in codes.chunks_exact(x.len()).zip(out) {
                *y = $code(row, x);
            }
        }

        $(#[target_feature(enable = $feature)])?
        fn $dots(first: &[i8], second: &[i8], third: &[u16], x: &[f32], out: &mut [f32]) {
            let rows = first.chunks_exact(x.len()).zip(second.chunks_exact(x.len())).zip(out);
            for (i, ((first, second), y)) in rows.enumerate() {
                let third = third.get(i * x.len()..(i + 1) * x.len());
                *y = $full(first, second, third, x);
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
kernels!(picked_avx512, codes_rows_avx512, dots_avx512, code_avx512, full_avx512, "avx512f,avx512bw");
#[cfg(target_arch = "x86_64")]
kernels!(picked_avx2, codes_rows_avx2, dots_avx2, code_avx2, full_avx2, "avx2,fma");
kernels!(picked_scalar, codes_rows_scalar, dots_scalar, code_scalar, full_scalar);

fn code_scalar(row: &[i8], x: &[i16]) -> i32 {
    row.iter().zip(x).map(|(code, x)| i32::from(*code) * i32::from(*x)).sum()
}

/// The value at `i`, without the power of two of the row.
#[inline(always)]
fn value(first: &[i8], second: &[i8], third: Option<&[u16]>, i: usize) -> f32 {
    let q = (i32::from(first[i]) << 24) + (i32::from(second[i]) << 16) + third.map_or(0, |third| i32::from(third[i]));
    q as f32
}

/// Adds in the order of `dot_scalar`.
fn full_scalar(first: &[i8], second: &[i8], third: Option<&[u16]>, x: &[f32]) -> f32 {
    let (n, value) = (x.len(), |i| value(first, second, third, i));
    let whole = n / 8 * 8;
    let tail: f32 = (whole..n).map(|i| value(i) * x[i]).sum();
    let mut sums = [0.0f32; 8];
    for at in (0..whole).step_by(8) {
        for i in 0..8 {
            sums[i] += value(at + i) * x[at + i];
        }
    }
    sums.iter().sum::<f32>() + tail
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn code_avx512(row: &[i8], x: &[i16]) -> i32 {
    use std::arch::x86_64::*;
    let n = row.len().min(x.len());
    let (row, x) = (&row[..n], &x[..n]);
    let mut sums = [_mm512_setzero_si512(); 2];
    let mut i = 0;
    while i + 64 <= n {
        for (j, sum) in sums.iter_mut().enumerate() {
            let at = i + 32 * j;
            // SAFETY: at + 32 <= i + 64 <= n, the length of both slices.
            let (code, y) = unsafe {
                let code = _mm512_cvtepi8_epi16(_mm256_loadu_si256(row.as_ptr().add(at).cast()));
                (code, _mm512_loadu_si512(x.as_ptr().add(at).cast()))
            };
            *sum = _mm512_add_epi32(*sum, _mm512_madd_epi16(code, y));
        }
        i += 64;
    }
    _mm512_reduce_add_epi32(_mm512_add_epi32(sums[0], sums[1])) + code_scalar(&row[i..], &x[i..])
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn full_avx512(first: &[i8], second: &[i8], third: Option<&[u16]>, x: &[f32]) -> f32 {
    use std::arch::x86_64::*;
    let n = first.len().min(second.len()).min(x.len());
    let third = third.filter(|third| third.len() >= n);
    let mut sums = [_mm512_setzero_ps(); 4];
    let mut i = 0;
    while i + 64 <= n {
        for (j, sum) in sums.iter_mut().enumerate() {
            let at = i + 16 * j;
            // SAFETY: at + 16 <= i + 64 <= n, and no slice is shorter than n.
            let (a, b, c, y) = unsafe {
                let a = _mm512_cvtepi8_epi32(_mm_loadu_si128(first.as_ptr().add(at).cast()));
                let b = _mm512_cvtepi8_epi32(_mm_loadu_si128(second.as_ptr().add(at).cast()));
                let c = match third {
                    Some(third) => _mm512_cvtepu16_epi32(_mm256_loadu_si256(third.as_ptr().add(at).cast())),
                    None => _mm512_setzero_si512(),
                };
                (a, b, c, _mm512_loadu_ps(x.as_ptr().add(at)))
            };
            let high = _mm512_add_epi32(_mm512_slli_epi32(a, 24), _mm512_slli_epi32(b, 16));
            *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(high, c)), y, *sum);
        }
        i += 64;
    }
    while i < n {
        let left = (n - i).min(16);
        let (mut values, mut y) = ([0.0; 16], [0.0; 16]);
        for j in 0..left {
            values[j] = value(first, second, third, i + j);
            y[j] = x[i + j];
        }
        // SAFETY: both arrays have 16 values.
        let (values, y) = unsafe { (_mm512_loadu_ps(values.as_ptr()), _mm512_loadu_ps(y.as_ptr())) };
        sums[0] = _mm512_fmadd_ps(values, y, sums[0]);
        i += left;
    }
    _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[inline]
fn code_avx2(row: &[i8], x: &[i16]) -> i32 {
    use std::arch::x86_64::*;
    let n = row.len().min(x.len());
    let (row, x) = (&row[..n], &x[..n]);
    let mut sums = [_mm256_setzero_si256(); 2];
    let mut i = 0;
    while i + 32 <= n {
        for (j, sum) in sums.iter_mut().enumerate() {
            let at = i + 16 * j;
            // SAFETY: at + 16 <= i + 32 <= n, the length of both slices.
            let (code, y) = unsafe {
                let code = _mm256_cvtepi8_epi16(_mm_loadu_si128(row.as_ptr().add(at).cast()));
                (code, _mm256_loadu_si256(x.as_ptr().add(at).cast()))
            };
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(code, y));
        }
        i += 32;
    }
    let sum = _mm256_add_epi32(sums[0], sums[1]);
    let sum = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
    let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b01_00_11_10>(sum));
    let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b10_11_00_01>(sum));
    _mm_cvtsi128_si32(sum) + code_scalar(&row[i..], &x[i..])
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[inline]
fn full_avx2(first: &[i8], second: &[i8], third: Option<&[u16]>, x: &[f32]) -> f32 {
    use std::arch::x86_64::*;
    let n = first.len().min(second.len()).min(x.len());
    let third = third.filter(|third| third.len() >= n);
    let mut sums = [_mm256_setzero_ps(); 4];
    let mut i = 0;
    while i + 8 <= n {
        // In the order of `dot_avx2`: four sums in turn for each 32 values, then the first sum only.
        let turn = if i / 32 * 32 + 32 <= n { i / 8 % 4 } else { 0 };
        // SAFETY: i + 8 <= n, and no slice is shorter than n; loads of 64 bits read 8 bytes.
        let (a, b, c, y) = unsafe {
            let a = _mm256_cvtepi8_epi32(_mm_loadl_epi64(first.as_ptr().add(i).cast()));
            let b = _mm256_cvtepi8_epi32(_mm_loadl_epi64(second.as_ptr().add(i).cast()));
            let c = match third {
                Some(third) => _mm256_cvtepu16_epi32(_mm_loadu_si128(third.as_ptr().add(i).cast())),
                None => _mm256_setzero_si256(),
            };
            (a, b, c, _mm256_loadu_ps(x.as_ptr().add(i)))
        };
        let high = _mm256_add_epi32(_mm256_slli_epi32(a, 24), _mm256_slli_epi32(b, 16));
        sums[turn] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_add_epi32(high, c)), y, sums[turn]);
        i += 8;
    }
    let sum = _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3]));
    let mut lanes = [0.0f32; 8];
    // SAFETY: `lanes` has room for 8 values.
    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sum) };
    let tail: f32 = (i..n).map(|i| value(first, second, third, i) * x[i]).sum();
    lanes.iter().sum::<f32>() + tail
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole numbers from -`most` to `most`, both included.
    fn numbers(n: usize, most: i32, seed: u32) -> Vec<i32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as i32 % (2 * most + 1) - most
        };
        (0..n).map(|_| next()).collect()
    }

    #[test]
    fn products_of_codes_are_equal_in_every_kernel() {
        for n in (1..150).chain([256, 500]) {
            let codes: Vec<i8> = numbers(9 * n, 127, 5).into_iter().map(|c| c as i8).collect();
            let x: Vec<i16> = numbers(n, 32_767, 6).into_iter().map(|c| c as i16).collect();
            let ids = [8u32, 0, 1, 2, 3, 4, 5, 6, 7, 9, u32::MAX];
            let exact: Vec<i32> =
                ids.iter().map(|id| codes.chunks(n).nth(*id as usize).map_or(0, |row| code_scalar(row, &x))).collect();
            let mut out = [7; 11];
            codes_picked(&codes, &x, &ids, &mut out);
            assert_eq!(out, *exact, "n {n}");
            let mut rows = [7; 9];
            codes_rows(&codes, &x, &mut rows);
            assert_eq!(rows[0..8], exact[1..9]);
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: just detected.
                unsafe { picked_avx2(&codes, &x, &ids, &mut out) };
                assert_eq!(out, *exact, "n {n}");
            }
        }
    }

    #[test]
    fn full_products_agree_with_f64_in_every_kernel() {
        for n in (1..150).chain([256, 1000]) {
            let byte = |seed| numbers(n, 127, seed).into_iter().map(|c| c as i8).collect::<Vec<_>>();
            let (first, second) = (byte(1), byte(2));
            let third: Vec<u16> = numbers(n, 32_000, 3).into_iter().map(|c| (c + 32_000) as u16).collect();
            let x: Vec<f32> = numbers(n, 1000, 4).into_iter().map(|c| c as f32 / 1000.0).collect();
            for third in [Some(&third[..]), None] {
                let exact: f64 = (0..n).map(|i| f64::from(value(&first, &second, third, i)) * f64::from(x[i])).sum();
                let bound = 2f64.powi(31) * n as f64 * 1e-6;
                let near =
                    |found: f32| assert!((f64::from(found) - exact).abs() < bound, "n {n}: {found}, not {exact}");
                let mut out = [0.0];
                planes_dots(&first, &second, third.unwrap_or(&[]), &x, &mut out);
                near(out[0]);
                near(full_scalar(&first, &second, third, &x));
                #[cfg(target_arch = "x86_64")]
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: just detected.
                    near(unsafe { full_avx2(&first, &second, third, &x) });
                }
            }
        }
    }
}
