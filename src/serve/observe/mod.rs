//! Log, metrics and request ids.

pub(crate) mod clock;
pub(crate) mod log;
pub(crate) mod metrics;
pub(crate) mod request;
