//! Small parts that every room may use and that use no room: cancellation, atomic file replacement, seeded random
//! numbers, safetensors files and dense linear algebra.

mod cancel;
pub(crate) mod files;
pub(crate) mod gemv;
#[cfg(feature = "research")]
pub(crate) mod linalg;
pub(crate) mod seeded;
pub(crate) mod tensors;

pub use cancel::Cancel;
