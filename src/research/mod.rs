//! Research: closed-form fits, feature sets from videos, and evaluation.

pub mod eval;
pub mod extract;
pub mod fit;
mod manifest;
