//! Limits on the work and memory that requests take at the same time.

pub(crate) mod budget;
pub(crate) mod flights;
pub(crate) mod gate;
