//! Maps files into memory and views their bytes as numbers. With `simd`,
//! the only place of `unsafe`.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use crate::error::{Error, Result};

/// A file, mapped read-only. The mapping outlives the file's name on Unix.
#[derive(Debug)]
pub(crate) struct Mapped(memmap2::Mmap);

impl Mapped {
    /// Maps the file if it has exactly `bytes` bytes.
    pub(crate) fn open(path: &Path, bytes: u64) -> Result<Mapped> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let found = file.metadata().map_err(Error::io("read the size of", path))?.len();
        if found != bytes || bytes == 0 {
            return Err(Error::damaged(path, format!("{bytes} bytes"), format!("{found} bytes")));
        }
        // SAFETY: the promise needed is that nobody changes the file while it is mapped. It is this
        // crate's: segment files are written under another name, renamed once and never written
        // again, only unlinked. A foreign process that truncates one breaks it.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io("map", path))?;
        Ok(Mapped(map))
    }

    /// The whole file.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Bytes `range` as `u32`; `None` if out of range, misaligned or not a multiple of 4.
    pub(crate) fn words(&self, range: Range<usize>) -> Option<&[u32]> {
        let bytes = checked::<u32>(self.0.get(range)?)?;
        // SAFETY: `checked` has seen alignment and length; every bit pattern is a u32, and the
        // result borrows `self`, which keeps the mapping.
        Some(unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / 4) })
    }

    /// Bytes `range` as `u16`; `None` if out of range, misaligned or not a multiple of 2.
    pub(crate) fn halves(&self, range: Range<usize>) -> Option<&[u16]> {
        let bytes = checked::<u16>(self.0.get(range)?)?;
        // SAFETY: as in `words`; every bit pattern is a u16.
        Some(unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / 2) })
    }
}

/// The bytes, if they are aligned for and a whole number of `T`.
fn checked<T>(bytes: &[u8]) -> Option<&[u8]> {
    let aligned = bytes.as_ptr().align_offset(align_of::<T>()) == 0;
    (aligned && bytes.len().is_multiple_of(size_of::<T>())).then_some(bytes)
}
