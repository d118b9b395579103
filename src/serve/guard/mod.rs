//! Checks of who may send a request, and of what the server may fetch.

pub(crate) mod auth;
pub(crate) mod host;
pub(crate) mod remote;
