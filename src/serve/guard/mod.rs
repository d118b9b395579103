//! Access: which hosts and origins may send requests, the token, and which addresses the server fetches from.

pub(crate) mod auth;
pub(crate) mod fetch;
pub(crate) mod host;
