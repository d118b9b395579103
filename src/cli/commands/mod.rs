//! One file for each command.

pub(super) mod compact;
pub(super) mod completions;
pub(super) mod encoders;
pub(super) mod index;
pub(super) mod info;
pub(super) mod man;
#[cfg(feature = "encoders")]
mod pull;
pub(super) mod remove;
pub(super) mod search;
#[cfg(feature = "serve")]
pub(super) mod serve;
pub(super) mod verify;
