//! What all decoders share: the bytes, the limits and the flag that cancels the work.

use image::ColorType;

use super::input::CancellableInput;
use super::pixels::PixelBuffer;
use super::{PictureLimit, PictureLimits};
use crate::base::Cancel;
use crate::media::Error;

/// Longest side of a picture. Rows and columns cost time and memory besides those of their pixels.
pub(super) const MAX_SIDE: u32 = 1_000_000;
/// Memory of a decoding that does not depend on the number of pixels: tables, a few rows, metadata of at most
/// [`MAX_METADATA_BYTES`], and the space for a rotation.
pub(super) const FIXED_BYTES: u64 = 24_000_000;
/// Largest size of the metadata (colour profile, EXIF, texts) that a decoder keeps.
pub(super) const MAX_METADATA_BYTES: usize = 4_000_000;

/// Why a picture was not decoded. It has no name of the picture yet.
#[derive(Debug)]
pub(super) enum DecodeFault {
    /// The picture is damaged, or uses a feature that is not read.
    Damaged(String),
    /// The picture exceeds a limit.
    TooLarge {
        /// As in [`crate::media::Error::PictureTooLarge`].
        found: String,
        /// The limit.
        limit: PictureLimit,
    },
    /// The picture is decoded by ffmpeg, which cannot do it: why.
    NeedsFfmpeg(String),
    /// The work was cancelled.
    Cancelled,
    /// The machine is at fault.
    Other(Error),
}

impl DecodeFault {
    /// A fault that a decoder reports.
    pub(super) fn damaged(error: impl std::fmt::Display) -> DecodeFault {
        DecodeFault::Damaged(error.to_string())
    }
}

/// One picture to decode.
#[derive(Clone, Copy)]
pub(super) struct DecodeJob<'a> {
    /// The file.
    pub(super) bytes: &'a [u8],
    pub(super) limits: &'a PictureLimits,
    pub(super) cancel: &'a Cancel,
}

impl<'a> DecodeJob<'a> {
    pub(super) fn input(&self) -> CancellableInput<'a> {
        CancellableInput::failing(self.bytes, self.cancel)
    }

    pub(super) fn go_on(&self) -> Result<(), DecodeFault> {
        if self.cancel.is_set() { Err(DecodeFault::Cancelled) } else { Ok(()) }
    }

    /// Makes room for the decoded pixels, if the picture is within all limits. `decoder_bytes` is what the
    /// decoder needs besides.
    pub(super) fn admit(
        &self,
        size: [u32; 2],
        color: ColorType,
        decoder_bytes: u64,
    ) -> Result<PixelBuffer, DecodeFault> {
        self.check(size, color, decoder_bytes)?;
        Ok(PixelBuffer::new(size[0], size[1], color))
    }

    /// Whether the picture is within all limits.
    pub(super) fn check(
        &self,
        [width, height]: [u32; 2],
        color: ColorType,
        decoder_bytes: u64,
    ) -> Result<(), DecodeFault> {
        let size = format!("has {width} x {height} pixels");
        if width == 0 || height == 0 {
            return Err(DecodeFault::Damaged(format!("it {size}")));
        }
        let too_large = |found, limit| Err(DecodeFault::TooLarge { found, limit });
        if width.max(height) > MAX_SIDE {
            return too_large(size, PictureLimit::Side(MAX_SIDE));
        }
        let pixels = u64::from(width) * u64::from(height);
        if pixels > self.limits.pixels {
            return too_large(size, PictureLimit::Pixels(self.limits.pixels));
        }
        let needed = PixelBuffer::bytes_needed(pixels, color).saturating_add(decoder_bytes);
        if needed.saturating_add(FIXED_BYTES) > self.limits.bytes {
            let megabytes = needed.saturating_add(FIXED_BYTES).div_ceil(1_000_000);
            let found = format!("{size}, which take {megabytes} MB to decode");
            return too_large(found, PictureLimit::Bytes(self.limits.bytes));
        }
        Ok(())
    }
}
