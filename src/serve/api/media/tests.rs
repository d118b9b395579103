use std::path::Path;

use super::file::disposition;
use super::preview::{cut_span, span_of};
use super::*;
use crate::search::Moment;
use crate::serve::api::files::content_type;

#[test]
fn a_preview_is_neither_too_short_nor_too_long_nor_beyond_the_end() {
    for ((from, to, duration), span) in [
        ((12_000, Some(16_000), 60_000), (12_000, 16_000)),
        ((12_000, None, 60_000), (12_000, 18_000)),
        ((12_000, Some(12_000), 60_000), (12_000, 14_000)),
        ((12_000, Some(3000), 60_000), (12_000, 14_000)),
        ((0, Some(60_000), 60_000), (0, 15_000)),
        ((59_900, Some(60_000), 60_000), (58_000, 60_000)),
        ((100_000, None, 60_000), (58_000, 64_000)),
        ((0, None, 500), (0, 6000)),
        ((u32::MAX, Some(u32::MAX), u32::MAX), (u32::MAX - 2000, u32::MAX)),
    ] {
        assert_eq!(cut_span(from, to, duration), span, "{from} {to:?} of {duration}");
    }
}

#[test]
fn the_preview_of_a_long_moment_surrounds_its_best_row() {
    for ((from_ms, at_ms, to_ms), span) in [
        ((3000, 4000, 7000), (3000, 7000)),
        ((0, 33_000, 39_500), (24_500, 39_500)),
        ((0, 33_000, 90_000), (28_000, 43_000)),
        ((0, 2000, 90_000), (0, 15_000)),
        ((10_000, 10_000, 90_000), (10_000, 25_000)),
        ((0, 15_000, 15_000), (0, 15_000)),
    ] {
        assert_eq!(span_of(Moment { from_ms, at_ms, to_ms }), span);
    }
}

#[test]
fn names_in_headers_are_ascii() {
    let expected = "inline; filename*=UTF-8''%C3%A9t%C3%A9%20%221%22%3B%20%23%25.mp4";
    assert_eq!(disposition("été \"1\"; #%.mp4").unwrap(), expected);
}

#[test]
fn no_content_type_is_one_that_a_browser_runs() {
    for extension in media::walk::EXTENSIONS {
        let found = content_type(&PathBuf::from(format!("a.{extension}")));
        assert!(
            found.starts_with("video/") || found == "image/gif" || found == "application/octet-stream",
            "{extension}"
        );
    }
    assert_eq!(content_type(Path::new("a.MP4")), "video/mp4");
    for name in ["a.html", "a.svg", "a", "a.js"] {
        assert_eq!(content_type(Path::new(name)), "application/octet-stream");
    }
}
