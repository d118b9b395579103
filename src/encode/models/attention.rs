//! Attention between the positions of each picture.

use candle_core::{Result, Tensor};

/// Splits (pictures · positions, parts · channels) into `parts` tensors (pictures, heads, positions, channels
/// / heads).
pub(super) fn split_heads<const PARTS: usize>(x: &Tensor, pictures: usize, heads: usize) -> Result<[Tensor; PARTS]> {
    let (rows, wide) = x.dims2()?;
    let x = x.reshape((pictures, rows / pictures, PARTS, heads, wide / PARTS / heads))?.permute((2, 0, 3, 1, 4))?;
    let parts: Result<Vec<Tensor>> = (0..PARTS).map(|i| x.get(i)?.contiguous()).collect();
    Ok(parts?.try_into().expect("there are PARTS of them"))
}

/// `softmax(Q Kᵀ / √d) V` for each picture and head: (pictures, heads, positions, d) to (pictures ·
/// positions, heads · d).
pub(super) fn attention(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let (pictures, heads, positions, length) = q.dims4()?;
    let scores = (q.matmul(&k.t()?)? * (length as f64).powf(-0.5))?;
    let mixed = candle_nn::ops::softmax_last_dim(&scores)?.matmul(v)?;
    mixed.transpose(1, 2)?.reshape((pictures * positions, heads * length))
}

/// Attention of each picture's positions to each other: (pictures · positions, 3 · channels), which holds Q,
/// K and V side by side, to (pictures · positions, channels).
pub(super) fn self_attention(qkv: &Tensor, pictures: usize, heads: usize) -> Result<Tensor> {
    let [q, k, v] = split_heads(qkv, pictures, heads)?;
    attention(&q, &k, &v)
}
