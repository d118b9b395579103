//! Little-endian integers, checksums, headers, and durable replacement of files.
//!
//! Segment and graph files share one frame: a header of [`HEADER_BYTES`] bytes that ends with its own CRC-32,
//! then sections, then the CRC-32 of everything before it.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::error::{Error, Result};
use crate::names;

/// Size of the header of a segment or graph file.
pub(crate) const HEADER_BYTES: usize = 64;

/// The `u32` at byte `at`.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

/// The `u64` at byte `at`.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// A header: magic bytes, `words`, `longs`, `last` and the CRC-32 of these. They fill it exactly.
pub(crate) fn header(magic: &[u8; 8], words: &[u32], longs: &[u64], last: u32) -> [u8; HEADER_BYTES] {
    let words = words.iter().flat_map(|word| word.to_le_bytes());
    let longs = longs.iter().flat_map(|long| long.to_le_bytes());
    let content = magic.iter().copied().chain(words).chain(longs).chain(last.to_le_bytes());
    let mut header = [0; HEADER_BYTES];
    header.iter_mut().zip(content).for_each(|(slot, byte)| *slot = byte);
    let crc = crc32fast::hash(&header[..HEADER_BYTES - 4]);
    header[HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// The header of a file, after a check of its size, magic bytes and format version.
pub(crate) fn check_header<'a>(bytes: &'a [u8], path: &Path, magic: &[u8; 8], version: u32) -> Result<&'a [u8]> {
    let Some(header) = bytes.get(..HEADER_BYTES) else {
        let expected = format!("a header of {HEADER_BYTES} bytes");
        return Err(Error::damaged(path, expected, format!("{} bytes", bytes.len())));
    };
    if &header[..8] != magic {
        let expected = format!("the magic bytes {}", String::from_utf8_lossy(magic));
        return Err(Error::damaged(path, expected, String::from_utf8_lossy(&header[..8])));
    }
    match u32_at(header, 8) {
        found if found != version => Err(Error::Version { path: path.to_owned(), expected: version, found }),
        _ => Ok(header),
    }
}

/// Compares the last four bytes of a file with the checksum that the manifest records.
pub(crate) fn check_trailer(bytes: &[u8], path: &Path, crc: u32) -> Result<()> {
    match u32_at(bytes, bytes.len() - 4) {
        found if found != crc => {
            Err(Error::damaged(path, format!("trailing checksum {crc:08x}"), format!("{found:08x}")))
        }
        _ => Ok(()),
    }
}

/// Computes the checksum of a whole file and compares it with the file's last four bytes.
pub(crate) fn verify_checksum(bytes: &[u8], path: &Path) -> Result<()> {
    let end = bytes.len() - 4;
    let (expected, found) = (u32_at(bytes, end), crc32fast::hash(&bytes[..end]));
    if found != expected {
        return Err(Error::damaged(path, format!("checksum {expected:08x}"), format!("{found:08x}")));
    }
    Ok(())
}

/// Writes a file durably: under a temporary name, then sync, rename, and sync of the folder. Appends the
/// CRC-32 of the content and returns it.
pub(crate) fn replace(
    dir: &Path,
    name: &str,
    fill: impl FnOnce(&mut ChecksumWriter) -> std::io::Result<()>,
) -> Result<u32> {
    let (path, temporary) = (dir.join(name), dir.join(names::temporary_name(name)));
    let file = File::create(&temporary).map_err(Error::io("create", &temporary))?;
    let out = BufWriter::with_capacity(1 << 18, file);
    let mut writer = ChecksumWriter { out, crc: crc32fast::Hasher::new(), bytes: 0 };
    let written = fill(&mut writer).and_then(|()| {
        let crc = writer.crc.clone().finalize();
        writer.write(&crc.to_le_bytes())?;
        writer.out.flush()?;
        writer.out.get_ref().sync_all()?;
        Ok(crc)
    });
    let crc = written.map_err(Error::io("write", &temporary))?;
    fs::rename(&temporary, &path).map_err(Error::io("rename to", &path))?;
    sync_dir(dir)?;
    Ok(crc)
}

/// Makes the names in a folder durable. Only Unix lets a program do that.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io("sync", dir))?;
    }
    Ok(())
}

/// A file being written, with the checksum and the number of the bytes so far.
pub(crate) struct ChecksumWriter {
    out: BufWriter<File>,
    crc: crc32fast::Hasher,
    bytes: u64,
}

impl ChecksumWriter {
    /// Writes integers in memory order, which is little-endian on all supported targets.
    pub(crate) fn write<T: bytemuck::NoUninit>(&mut self, values: &[T]) -> std::io::Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        self.crc.update(bytes);
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// Writes zeros, fewer than 8, up to offset `to`.
    pub(crate) fn pad(&mut self, to: usize) -> std::io::Result<()> {
        self.write(&[0u8; 8][..(to as u64 - self.bytes) as usize])
    }
}
