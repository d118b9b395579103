//! Recognises files by their first bytes, for error messages that say what a file is.

use std::io::Read;
use std::path::Path;

use image::ImageFormat;

use crate::base::files;

/// Bytes that are read from the beginning of a file.
const HEAD_BYTES: u64 = 512;

/// First bytes of files that are neither videos nor pictures.
const OTHERS: [(&[u8], &str); 14] = [
    (b"%PDF-", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive or an office document"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\xfd7zXZ\0", "an xz archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"SQLite format 3\0", "a database"),
    (b"ID3", "an audio file"),
    (b"fLaC", "an audio file"),
    (b"!<arch>\n", "a package or library"),
];

/// What a file is, if it is surely not a video, with an article: "a JPEG picture", "a text file".
pub(super) fn other_than_video(path: &Path) -> Option<&'static str> {
    let mut head = Vec::new();
    files::open(path).ok()?.take(HEAD_BYTES).read_to_end(&mut head).ok()?;
    match image::guess_format(&head) {
        // GIF files are indexed as videos.
        Ok(ImageFormat::Gif) => None,
        Ok(ImageFormat::Jpeg) => Some("a JPEG picture"),
        Ok(ImageFormat::Png) => Some("a PNG picture"),
        Ok(ImageFormat::WebP) => Some("a WebP picture"),
        Ok(ImageFormat::Tiff) => Some("a TIFF picture"),
        Ok(_) => Some("a picture"),
        Err(_) => match unsupported_picture(&head) {
            Some("HEIC") => Some("a HEIC picture"),
            Some("AVIF") => Some("an AVIF picture"),
            Some("SVG") => Some("an SVG picture"),
            Some(_) => Some("a JPEG XL picture"),
            None => other(&head),
        },
    }
}

fn other(head: &[u8]) -> Option<&'static str> {
    if head.starts_with(b"RIFF") && head.get(8..12) == Some(b"WAVE") {
        return Some("an audio file");
    }
    let known = OTHERS.iter().find(|(first, _)| head.starts_with(first)).map(|(_, name)| *name);
    known.or_else(|| is_text(head).then_some("a text file"))
}

/// The name of a picture format that is recognised but not read.
pub(super) fn unsupported_picture(head: &[u8]) -> Option<&'static str> {
    // An ISO base media file begins with the length of the first box, `ftyp` and the major brand.
    match head.get(4..12) {
        Some(b"ftypavif" | b"ftypavis") => Some("AVIF"),
        Some(b"JXL \r\n\x87\n") => Some("JPEG XL"),
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
