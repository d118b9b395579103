//! Recognises files by their first bytes: to choose a decoder, and for error messages that say what a file
//! is.

use std::io::Read;
use std::path::Path;

use image::ImageFormat;

use crate::base::files;

/// Bytes that are read from the beginning of a file.
const HEAD_BYTES: u64 = 512;

/// First bytes of files that are neither videos nor pictures, whatever follows: many of them can contain a
/// stream that ffmpeg finds.
const OTHERS: [(&[u8], &str); 13] = [
    (b"%PDF-", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive or an office document"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x1f\x8b\x08", "a gzip archive"),
    (b"\xfd7zXZ\0", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (b"070701", "a cpio archive"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an office document"),
    (b"\x7fELF", "a program"),
    (b"SQLite format 3\0", "a database"),
    (b"fLaC", "an audio file"),
    (b"!<arch>\n", "a package or library"),
];

/// First bytes that a cut transport stream can have too by chance, or that can precede a video.
const PROBABLE_OTHERS: [(&[u8], &str); 3] =
    [(b"BZh", "a bzip2 archive"), (b"MZ", "a program"), (b"ID3", "an audio file")];

fn head_of(path: &Path) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    files::open(path).ok()?.take(HEAD_BYTES).read_to_end(&mut head).ok()?;
    Some(head)
}

/// What a file is, if it is surely neither a video nor a picture, with an article: "a text file". ffmpeg may
/// find a stream in such a file, such as a video or a picture in an archive.
pub(super) fn never_a_video(path: &Path) -> Option<&'static str> {
    head_of(path).and_then(|head| other(&head).filter(|_| image::guess_format(&head).is_err()))
}

/// What a file that yields no frame is, with an article: "a JPEG picture", "a text file".
pub(super) fn other_than_video(path: &Path) -> Option<&'static str> {
    let head = head_of(path)?;
    match image::guess_format(&head) {
        // GIF files are indexed as videos.
        Ok(ImageFormat::Gif) => None,
        Ok(ImageFormat::Avif) if is_sequence(&head) => None,
        Ok(ImageFormat::Avif) => Some("an AVIF picture"),
        Ok(ImageFormat::Jpeg) => Some("a JPEG picture"),
        Ok(ImageFormat::Png) => Some("a PNG picture"),
        Ok(ImageFormat::WebP) => Some("a WebP picture"),
        Ok(ImageFormat::Tiff) => Some("a TIFF picture"),
        Ok(_) => Some("a picture"),
        Err(_) => match heif(&head) {
            Some(_) if is_sequence(&head) => None,
            Some("AVIF") => Some("an AVIF picture"),
            Some(_) => Some("a HEIC picture"),
            None if is_jpeg_xl(&head) => Some("a JPEG XL picture"),
            None => other(&head).or_else(|| named(&PROBABLE_OTHERS, &head)),
        },
    }
}

fn other(head: &[u8]) -> Option<&'static str> {
    if unsupported_picture(head).is_some() {
        return Some("an SVG picture");
    }
    if head.starts_with(b"RIFF") && head.get(8..12) == Some(b"WAVE") {
        return Some("an audio file");
    }
    let is_text = is_text(head) && !head.starts_with(b"YUV4MPEG2 ");
    let known = named(&OTHERS, head).or_else(|| is_tar(head).then_some("a tar archive"));
    known.or_else(|| is_text.then_some("a text file"))
}

fn named(names: &[(&[u8], &'static str)], head: &[u8]) -> Option<&'static str> {
    names.iter().find(|(first, _)| head.starts_with(first)).map(|(_, name)| *name)
}

/// Whether bytes begin with the header of a tar archive: its checksum is right. Not all have a magic number.
fn is_tar(head: &[u8]) -> bool {
    const CHECKSUM: std::ops::Range<usize> = 148..156;
    let Some(header) = head.get(..512) else { return false };
    let digits = String::from_utf8_lossy(&header[CHECKSUM]);
    let stated = u32::from_str_radix(digits.trim_matches(['\0', ' ']), 8);
    let byte = |(at, byte): (usize, &u8)| u32::from(if CHECKSUM.contains(&at) { b' ' } else { *byte });
    stated == Ok(header.iter().enumerate().map(byte).sum())
}

/// The name of a picture format that is recognised but not read.
pub(super) fn unsupported_picture(head: &[u8]) -> Option<&'static str> {
    let head = &head[..head.len().min(HEAD_BYTES as usize)];
    (is_text(head) && String::from_utf8_lossy(head).contains("<svg")).then_some("SVG")
}

/// Whether bytes are a JPEG XL picture: a codestream, or a file with boxes.
pub(super) fn is_jpeg_xl(head: &[u8]) -> bool {
    head.starts_with(b"\xff\x0a") || head.starts_with(b"\0\0\0\x0cJXL \r\n\x87\n")
}

/// The brands of an ISO base media file. The first one is the major brand.
fn brands(head: &[u8]) -> &[[u8; 4]] {
    let Some((size, rest)) = head.split_at_checked(4).filter(|(_, rest)| rest.starts_with(b"ftyp")) else {
        return &[];
    };
    let size = u32::from_be_bytes([size[0], size[1], size[2], size[3]]) as usize;
    // The type, the major brand, its version, and the compatible brands.
    rest.get(4..size.saturating_sub(4).min(rest.len())).unwrap_or_default().as_chunks().0
}

/// "HEIC" or "AVIF", if bytes are a HEIF file.
pub(super) fn heif(head: &[u8]) -> Option<&'static str> {
    let brands = brands(head);
    let is_picture = match brands.first()? {
        b"heic" | b"heix" | b"heim" | b"heis" | b"mif1" | b"mif2" | b"avif" => true,
        _ => is_sequence(head) || brands[1..].contains(b"mif1"),
    };
    let is_avif = brands.contains(b"avif") || brands.contains(b"avis");
    is_picture.then_some(if is_avif { "AVIF" } else { "HEIC" })
}

/// Whether a HEIF file is an animation, which is stored as a video.
pub(super) fn is_sequence(head: &[u8]) -> bool {
    matches!(brands(head).first(), Some(b"avis" | b"msf1" | b"hevc" | b"hevx"))
}

/// Whether bytes begin like a video that ffmpeg reads. A HEIF file with pictures does not count.
pub(super) fn is_video(head: &[u8]) -> bool {
    const STARTS: [&[u8]; 7] = [
        b"\x1a\x45\xdf\xa3",
        b"FLV\x01",
        b"OggS",
        b"\0\0\x01\xba",
        b"\0\0\x01\xb3",
        b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
        b".RMF",
    ];
    const TS_PACKET: usize = 188;
    let is_avi = head.starts_with(b"RIFF") && head.get(8..12) == Some(b"AVI ");
    let is_mov = match head.get(4..8) {
        Some(b"ftyp") => heif(head).is_none(),
        Some(kind) => [b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"].iter().any(|known| *known == kind),
        None => false,
    };
    // A GIF file begins with the same byte as a packet.
    let is_packet = |at: usize| head.get(at) == Some(&0x47) && !head.starts_with(b"GIF8");
    let is_ts = |lead: usize, packet: usize| (0..2).all(|i| is_packet(lead + i * packet));
    is_avi || is_mov || is_ts(0, TS_PACKET) || is_ts(4, TS_PACKET + 4) || STARTS.iter().any(|s| head.starts_with(s))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gif_file_is_not_a_transport_stream() {
        let mut head = [&b"GIF89a"[..], &[0; 400]].concat();
        head[188] = b'G';
        assert!(!is_video(&head));
        head[..6].fill(0);
        head[0] = b'G';
        assert!(is_video(&head), "two packets");
    }

    #[test]
    fn a_tar_archive_is_recognised_by_its_checksum() {
        let mut head = [0; 512];
        head[..5].copy_from_slice(b"a.jpg");
        assert!(!is_tar(&head) && !is_tar(&[0; 512]));
        // The sum of the name, and of eight blanks for the checksum.
        head[148..156].copy_from_slice(b"001320\0 ");
        assert!(is_tar(&head));
        assert!(!is_tar(&head[..511]));
        head[0] = b'b';
        assert!(!is_tar(&head));
    }
}
