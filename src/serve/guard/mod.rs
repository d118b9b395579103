//! Access control: hosts and origins of requests, the token, and the addresses that the server fetches from.

pub(crate) mod auth;
pub(crate) mod fetch;
pub(crate) mod host;
