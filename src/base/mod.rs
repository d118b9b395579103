//! Helpers that every room may use and that use no room: cancellation, files, paths in errors, seeded random
//! numbers, safetensors files, dense linear algebra and escapes for terminals.

mod cancel;
mod error_paths;
pub(crate) mod files;
pub(crate) mod gemv;
#[cfg(feature = "research")]
pub(crate) mod linalg;
pub(crate) mod seeded;
pub(crate) mod tensors;
#[cfg(any(feature = "cli", feature = "serve"))]
pub(crate) mod visible;

pub use cancel::Cancel;
pub use error_paths::ErrorPaths;

#[cfg(test)]
#[path = "../../tests/integration/support/skip.rs"]
pub(crate) mod skip;
