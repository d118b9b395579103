//! Recognises files by their first bytes, for error messages that say what a file is.

use std::io::Read;
use std::path::Path;

use image::ImageFormat;

use crate::base::files;

/// Bytes that are read from the beginning of a file.
const HEAD_BYTES: u64 = 512;

/// What a file is, if it is surely not a video: "a picture" or "text".
pub(super) fn other_than_video(path: &Path) -> Option<&'static str> {
    let mut head = Vec::new();
    files::open(path).ok()?.take(HEAD_BYTES).read_to_end(&mut head).ok()?;
    match image::guess_format(&head) {
        Ok(ImageFormat::Gif) => None,
        Ok(_) => Some("a picture"),
        Err(_) if unsupported_picture(&head).is_some() => Some("a picture"),
        Err(_) => is_text(&head).then_some("text"),
    }
}

/// The name of a picture format that is recognised but not read.
pub(super) fn unsupported_picture(head: &[u8]) -> Option<&'static str> {
    // An ISO base media file begins with the length of the first box, `ftyp` and the major brand.
    match head.get(4..12) {
        Some(b"ftypavif" | b"ftypavis") => Some("AVIF"),
        Some(b"ftypheic" | b"ftypheix" | b"ftypheim" | b"ftypheis" | b"ftyphevc" | b"ftypmif1" | b"ftypmsf1") => {
            Some("HEIC")
        }
        _ => {
            let head = &head[..head.len().min(HEAD_BYTES as usize)];
            (is_text(head) && String::from_utf8_lossy(head).contains("<svg")).then_some("SVG")
        }
    }
}

/// Whether bytes are UTF-8 without control characters. The last character may be incomplete.
fn is_text(head: &[u8]) -> bool {
    let valid = match std::str::from_utf8(head) {
        Ok(_) => head,
        Err(error) if error.error_len().is_none() => &head[..error.valid_up_to()],
        Err(_) => return false,
    };
    !valid.is_empty() && valid.iter().all(|byte| *byte >= b' ' || b"\t\n\r\x0c".contains(byte))
}
