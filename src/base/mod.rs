//! Helpers that every room may use and that use no room: cancellation, files, paths in errors, seeded random
//! numbers, safetensors files, dense linear algebra, escapes for terminals, signals and the allocator.

#[cfg(all(feature = "cli", feature = "serve"))]
pub(crate) mod allocator;
mod cancel;
mod error_paths;
pub(crate) mod files;
#[cfg(feature = "research")]
pub(crate) mod linalg;
#[cfg(any(feature = "encoders", feature = "research"))]
pub(crate) mod npy;
pub(crate) mod seeded;
#[cfg(all(unix, any(feature = "cli", feature = "serve")))]
pub(crate) mod signals;
pub(crate) mod tensors;
#[cfg(any(feature = "cli", feature = "serve"))]
pub(crate) mod visible;

pub use cancel::Cancel;
pub use error_paths::ErrorPaths;

/// Defines a setter for each of these fields of an options struct. Calls can be chained.
macro_rules! setters {
    ($options:ident: $($field:ident: $type:ty),+ $(,)?) => {
        impl $options {
            $(
                #[doc = concat!("Sets [`", stringify!($options), "::", stringify!($field), "`].")]
                #[must_use]
                pub fn $field(mut self, $field: $type) -> $options {
                    self.$field = $field;
                    self
                }
            )+
        }
    };
}
pub(crate) use setters;

#[cfg(test)]
#[path = "../../tests/integration/support/skip.rs"]
pub(crate) mod skip;
