use std::path::Path as FilePath;

use super::*;

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
        assert_eq!(super::span(from, to, duration), span, "{from} {to:?} of {duration}");
    }
}

#[test]
fn the_preview_of_a_long_moment_is_about_its_best_place() {
    for ((from_ms, at_ms, to_ms), shown) in [
        ((3000, 4000, 7000), (3000, 7000)),
        ((0, 33_000, 39_500), (24_500, 39_500)),
        ((0, 33_000, 90_000), (28_000, 43_000)),
        ((0, 2000, 90_000), (0, 15_000)),
        ((10_000, 10_000, 90_000), (10_000, 25_000)),
        ((0, 15_000, 15_000), (0, 15_000)),
    ] {
        assert_eq!(super::shown(Moment { from_ms, at_ms, to_ms }), shown);
    }
}

#[test]
fn names_in_headers_are_ascii() {
    assert_eq!(encoded("été \"1\"; #%.mp4"), "%C3%A9t%C3%A9%20%221%22%3B%20%23%25.mp4");
}

#[test]
fn no_file_is_told_to_be_what_a_browser_runs() {
    for extension in media::walk::EXTENSIONS {
        let told = content_type(&PathBuf::from(format!("a.{extension}")));
        assert!(told.starts_with("video/") || told == "image/gif" || told == "application/octet-stream", "{extension}");
    }
    assert_eq!(content_type(FilePath::new("a.MP4")), "video/mp4");
    for name in ["a.html", "a.svg", "a", "a.js"] {
        assert_eq!(content_type(FilePath::new(name)), "application/octet-stream");
    }
}

#[test]
fn errors_tell_no_path() {
    let path = PathBuf::from("/srv/secret place/a.mp4");
    let io = |kind: ErrorKind| media::Error::Io { path: path.clone(), reason: kind.into() };
    for (error, status) in [
        (io(ErrorKind::NotFound), StatusCode::GONE),
        (io(ErrorKind::PermissionDenied), StatusCode::INTERNAL_SERVER_ERROR),
        (media::Error::NotAFile { path: path.clone(), found: "a folder" }, StatusCode::GONE),
        (
            media::Error::Undecodable { path: path.clone(), reason: "bad".into() },
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        (media::Error::Limit { path: path.clone(), reason: "took long".into() }, StatusCode::SERVICE_UNAVAILABLE),
        (
            media::Error::NoFfmpeg { program: "/srv/secret place/ffmpeg".into(), reason: "none".into() },
            StatusCode::NOT_IMPLEMENTED,
        ),
        (media::Error::NoCodec { program: "/srv/secret place/ffmpeg".into() }, StatusCode::NOT_IMPLEMENTED),
    ] {
        let refused = refused(error);
        assert_eq!(refused.status, status, "{refused:?}");
        assert!(!refused.message.contains("secret"), "{refused:?}");
    }
}
