//! Connections: accepting, reading bodies and writing responses, each within its time limits.

pub(crate) mod body;
pub(crate) mod held;
pub(crate) mod listen;
