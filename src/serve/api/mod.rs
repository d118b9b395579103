//! The handlers: the JSON API, media files, OpenAPI and the web page.

pub(crate) mod ask;
pub(crate) mod cache;
pub(crate) mod catalogue;
pub(crate) mod compat;
pub(crate) mod files;
pub(crate) mod hide;
pub(crate) mod jobs;
pub(crate) mod json;
pub(crate) mod library;
pub(crate) mod media;
pub(crate) mod openapi;
pub(crate) mod page;
pub(crate) mod search;
