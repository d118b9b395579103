//! The log, the metrics, and the record of each request.

pub(crate) mod clock;
pub(crate) mod held;
pub(crate) mod logging;
pub(crate) mod metrics;
pub(crate) mod request;
