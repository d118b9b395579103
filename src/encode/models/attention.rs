//! Attention between the positions of one picture.

use candle_core::{Result, Tensor};

/// `softmax(Q Kᵀ / √d) V` for each of `heads` heads of `d` numbers: (positions, 3 · channels), which holds Q, K and V side by side, to (positions, channels).
pub(in crate::encode) fn attention(qkv: &Tensor, heads: usize) -> Result<Tensor> {
    let (positions, wide) = qkv.dims2()?;
    let channels = wide / 3;
    let length = channels / heads;
    let part = |i: usize| {
        qkv.narrow(1, i * channels, channels)?.reshape((positions, heads, length))?.transpose(0, 1)?.contiguous()
    };
    let scores = (part(0)?.matmul(&part(1)?.t()?)? * (length as f64).powf(-0.5))?;
    let mixed = candle_nn::ops::softmax_last_dim(&scores)?.matmul(&part(2)?)?;
    mixed.transpose(0, 1)?.reshape((positions, channels))
}
