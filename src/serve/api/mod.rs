//! The handlers of the HTTP API and of the web page.

pub(crate) mod batch;
pub(crate) mod bodies;
mod cache;
pub(crate) mod catalogue;
pub(crate) mod compat;
mod files;
pub(crate) mod health;
pub(crate) mod jobs;
mod json;
pub(crate) mod library;
pub(crate) mod links;
pub(crate) mod media;
pub(crate) mod openapi;
pub(crate) mod page;
mod params;
pub(crate) mod request;
pub(crate) mod search;
pub(crate) mod session;
