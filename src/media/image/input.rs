//! Hands the bytes of a file to a decoder, and stops the decoder when the work is cancelled.

use std::io::{self, BufRead, Read, Seek, SeekFrom};

use crate::base::Cancel;

/// Most bytes that a decoder gets at once. GIF and PNG expand them to some megabytes at most, which takes
/// some hundredths of a second.
const WINDOW: usize = 1 << 10;

/// The panic payload with which [`CancellableInput::unwinding`] leaves a decoder.
pub(super) struct DecodingStopped;

/// A file in memory that can no longer be read once the work is cancelled.
pub(super) struct CancellableInput<'a> {
    bytes: &'a [u8],
    at: usize,
    cancel: &'a Cancel,
    unwinds: bool,
}

impl<'a> CancellableInput<'a> {
    /// An input whose reads fail after the cancellation.
    pub(super) fn failing(bytes: &'a [u8], cancel: &'a Cancel) -> CancellableInput<'a> {
        CancellableInput { bytes, at: 0, cancel, unwinds: false }
    }

    /// An input that unwinds with [`DecodingStopped`] after the cancellation, without a message. It is for
    /// decoders that replace what they cannot read and go on.
    pub(super) fn unwinding(bytes: &'a [u8], cancel: &'a Cancel) -> CancellableInput<'a> {
        CancellableInput { unwinds: true, ..CancellableInput::failing(bytes, cancel) }
    }

    #[cold]
    fn stop(&self) -> io::Error {
        if self.unwinds {
            std::panic::resume_unwind(Box::new(DecodingStopped));
        }
        io::Error::other("cancelled")
    }
}

impl Read for CancellableInput<'_> {
    #[inline]
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(out.len());
        out[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for CancellableInput<'_> {
    #[inline]
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.cancel.is_set() {
            return Err(self.stop());
        }
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        Ok(&rest[..rest.len().min(WINDOW)])
    }

    #[inline]
    fn consume(&mut self, count: usize) {
        self.at += count;
    }
}

impl Seek for CancellableInput<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (base, offset) = match to {
            SeekFrom::Start(at) => (at, 0),
            SeekFrom::End(offset) => (self.bytes.len() as u64, offset),
            SeekFrom::Current(offset) => (self.at as u64, offset),
        };
        let at = base.checked_add_signed(offset).and_then(|at| usize::try_from(at).ok());
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_windows_until_the_work_is_cancelled() {
        let (bytes, cancel) = (vec![7; WINDOW * 2], Cancel::default());
        let mut failing = CancellableInput::failing(&bytes, &cancel);
        let mut unwinding = CancellableInput::unwinding(&bytes, &cancel);
        assert_eq!(failing.read(&mut vec![0; WINDOW * 2]).unwrap(), WINDOW);
        assert_eq!(unwinding.seek(SeekFrom::End(-1)).unwrap() as usize, WINDOW * 2 - 1);
        assert_eq!(unwinding.fill_buf().unwrap(), [7]);
        assert!(unwinding.seek(SeekFrom::Current(i64::MIN)).is_err());
        assert_eq!(failing.seek(SeekFrom::Start(u64::MAX >> 1)).ok().map(|_| failing.read(&mut [0]).unwrap()), Some(0));
        cancel.set();
        assert!(failing.read(&mut [0]).is_err());
        let read = std::panic::AssertUnwindSafe(|| unwinding.read(&mut [0]));
        assert!(std::panic::catch_unwind(read).unwrap_err().is::<DecodingStopped>());
    }
}
