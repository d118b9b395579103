//! Connections: accepting them, reading bodies and writing responses, each within its limits.

pub(crate) mod body;
pub(crate) mod listen;
mod progress;
pub(crate) mod registry;
pub(crate) mod response;
mod write_timeout;
