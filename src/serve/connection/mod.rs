//! Connections: accepting them, reading bodies and writing responses, each within its limits.

pub(crate) mod body;
pub(crate) mod listen;
mod registry;
mod write_timeout;
