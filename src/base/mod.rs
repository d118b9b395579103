//! Helpers that every room may use and that use no room: cancellation, files, paths in errors, seeded random
//! numbers, safetensors files and dense linear algebra.

mod cancel;
mod error_paths;
pub(crate) mod files;
pub(crate) mod gemv;
#[cfg(feature = "research")]
pub(crate) mod linalg;
#[cfg(any(feature = "encoders", feature = "research"))]
pub(crate) mod npy;
pub(crate) mod seeded;
pub(crate) mod tensors;

pub use cancel::Cancel;
pub use error_paths::ErrorPaths;

#[cfg(test)]
#[path = "../../tests/integration/support/skip.rs"]
pub(crate) mod skip;
