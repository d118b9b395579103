//! Limits on the computation and memory of concurrent requests.

pub(crate) mod budget;
pub(crate) mod gate;
pub(crate) mod single_flight;
