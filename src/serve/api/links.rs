//! Links to the pictures and videos of a result, and its names and times as responses write them.

use std::path::Path;
use std::sync::Arc;

use crate::search::ResultRecord;
use crate::serve::advice::stored_text;
use crate::serve::guard::auth::Auth;

/// Writes links, signed if the server has a token, so that a page or a chat can embed them.
pub(crate) struct Links {
    auth: Arc<Auth>,
    show_paths: bool,
}

impl Links {
    pub(crate) fn new(auth: Arc<Auth>, show_paths: bool) -> Links {
        Links { auth, show_paths }
    }

    /// A picture of the moment at `at` seconds; `width` in pixels.
    pub(crate) fn thumbnail(&self, video: &str, at: f64, width: Option<u32>) -> String {
        let width = width.map(|width| format!("&width={width}")).unwrap_or_default();
        self.auth.sign(format!("/v1/thumbnail?video={video}&at={at}{width}"))
    }

    /// A short video of a moment, in seconds.
    pub(crate) fn preview(&self, video: &str, from: f64, to: f64) -> String {
        self.auth.sign(format!("/v1/preview?video={video}&from={from}&to={to}"))
    }

    /// The file of a video.
    pub(crate) fn media(&self, video: &str) -> String {
        self.auth.sign(format!("/v1/media/{video}"))
    }

    /// A stored message about a video, without its folder unless the server shows paths.
    pub(crate) fn stored_text(&self, text: &str, video: &Path) -> String {
        if self.show_paths { text.to_owned() } else { stored_text(text, video) }
    }

    /// A result, without the path of its file unless the server shows paths.
    pub(crate) fn shown(&self, record: ResultRecord) -> ResultRecord {
        if self.show_paths { record } else { record.without_path() }
    }

    /// The path of a file, if the server shows paths.
    pub(crate) fn path(&self, path: &str) -> Option<String> {
        self.show_paths.then(|| path.to_owned())
    }
}

/// Milliseconds as seconds.
pub(crate) fn seconds(ms: u32) -> f64 {
    f64::from(ms) / 1000.0
}

/// Name of a video's file, without its folders.
pub(crate) fn file_name(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}
