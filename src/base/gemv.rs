//! Matrix times vector.

/// `y = A x` for a row-major `A` of shape (`y.len()`, `x.len()`), by the SIMD kernel of the index.
pub(crate) fn gemv(a: &[f32], x: &[f32], y: &mut [f32]) {
    reelseek_index::gemv(a, y.len(), x.len(), x, y);
}
