//! HEIC and AVIF. [`super::heif`] reads the structure of the file; ffmpeg decodes the tiles, as a stream
//! without a container, so that versions decode them that know no HEIF.

use std::time::Duration;

use image::ColorType;

use super::heif::{HeifCodec, HeifPicture, HeifTile, HeifTransform, parse};
use super::job::{DecodeFault, DecodeJob, FIXED_BYTES};
use super::pixels::{PixelBuffer, on_white, oriented};
use super::{CUT, OpenedPicture, PictureLimit};
use crate::media::ffmpeg::{CodedStream, decode_stream};
use crate::media::{Error, Limits, Picture, Tools};

/// Bytes for each pixel of a tile: two decoded frames of 16 bits without subsampling would take 12; most have
/// 8 bits and take 3. Three more are the RGB pixels, in ffmpeg and here.
const TILE_FACTOR: u64 = 12;
/// Memory of ffmpeg that does not depend on the picture.
const FFMPEG_BYTES: u64 = 32_000_000;
/// Longest time of the decoding.
const TIME: Duration = Duration::from_secs(20);

pub(super) fn decode(job: &DecodeJob<'_>) -> Result<OpenedPicture, DecodeFault> {
    let heif = parse(job.bytes).map_err(DecodeFault::Damaged)?;
    let tile_bytes = (u64::from(heif.tile_size[0]) * u64::from(heif.tile_size[1])).saturating_mul(TILE_FACTOR);
    let alpha_bytes = if heif.alpha.is_some() { 3 * u64::from(heif.size[0]) * u64::from(heif.size[1]) } else { 0 };
    let needed = tile_bytes.saturating_add(FFMPEG_BYTES).saturating_add(alpha_bytes);
    job.check(heif.tile_size, ColorType::Rgb8, 0)?;
    job.check(heif.size, ColorType::Rgb8, needed)?;
    let (mut picture, mut is_cut) = decode_tiles(job, &heif)?;
    if let Some(alpha) = &heif.alpha {
        job.check(alpha.tile_size, ColorType::Rgb8, 0)?;
        let (opacity, alpha_is_cut) = decode_tiles(job, alpha)?;
        is_cut |= alpha_is_cut;
        job.go_on()?;
        let opacity = opacity.rgb.iter().copied();
        picture.rgb.iter_mut().zip(opacity).for_each(|(value, alpha)| *value = on_white(*value, alpha));
    }
    for transform in &heif.transforms {
        picture = match *transform {
            HeifTransform::Turn(turn) => oriented(picture, turn, job.cancel)?,
            HeifTransform::Crop([x, y, width, height]) => {
                job.go_on()?;
                crop(picture, [x, y], [width, height])
            }
        };
    }
    Ok(OpenedPicture { picture, warning: is_cut.then_some(CUT) })
}

/// Reads the structure of a file and the units of its tiles, without decoding them.
pub(super) fn check(bytes: &[u8]) {
    let Ok(heif) = parse(bytes) else { return };
    for tile in heif.tiles.iter().filter(|_| heif.codec == HeifCodec::Hevc) {
        let data = tile.data.concat();
        let (mut data, length_bytes) = (&data[..], length_bytes(tile.config));
        while unit(&mut data, length_bytes).is_some() {}
    }
}

/// Decodes all tiles and puts them together. Also returns whether some are missing or damaged.
fn decode_tiles(job: &DecodeJob<'_>, heif: &HeifPicture<'_>) -> Result<(Picture, bool), DecodeFault> {
    // A tile after a missing one has no known place in the stream.
    let complete = heif.tiles.iter().take_while(|tile| !tile.is_cut).count();
    let is_cut = complete < heif.tiles.len();
    // Of a single picture that is cut short, a part may be decoded.
    let tiles = &heif.tiles[..if heif.tiles.len() == 1 { 1 } else { complete }];
    let stream = stream(heif, tiles).map_err(|error| fault(error, job, heif.codec))?;
    let mut canvas = PixelBuffer::new(heif.size[0], heif.size[1], ColorType::Rgb8);
    let used = FIXED_BYTES + canvas.decoded().len() as u64;
    let limits = Limits {
        max_pixels: job.limits.pixels.saturating_mul(2),
        wall: TIME,
        stall: TIME,
        data_bytes: job.limits.bytes.saturating_sub(used).max(FFMPEG_BYTES),
        ..Limits::default()
    };
    let mut placed = 0;
    let place = |rgb: &[u8]| {
        put_tile(canvas.decoded(), heif, placed, rgb);
        placed += 1;
    };
    let outcome = decode_stream(&Tools::unchecked(), stream, heif.tile_size, tiles.len(), &limits, job.cancel, place);
    let (decoded, messages) = outcome.map_err(|error| fault(error, job, heif.codec))?;
    if decoded == 0 {
        let reason = messages.unwrap_or_else(|| "no picture could be decoded".to_owned());
        return Err(undecoded(reason, job, heif.codec));
    }
    let is_cut = is_cut || decoded < heif.tiles.len() as u64 || messages.is_some();
    Ok((canvas.into_picture(job.cancel)?, is_cut))
}

/// Copies a tile to its place. Tiles may reach beyond the picture.
fn put_tile(canvas: &mut [u8], heif: &HeifPicture<'_>, number: usize, rgb: &[u8]) {
    let [width, height] = heif.size.map(|side| side as usize);
    let [tile_width, tile_height] = heif.tile_size.map(|side| side as usize);
    let columns = heif.columns as usize;
    let (left, top) = (number % columns * tile_width, number / columns * tile_height);
    if left >= width || top >= height {
        return;
    }
    let bytes = tile_width.min(width - left) * 3;
    for (y, row) in (top..height).zip(rgb.chunks_exact(tile_width * 3)).take(tile_height) {
        canvas[(y * width + left) * 3..][..bytes].copy_from_slice(&row[..bytes]);
    }
}

/// The part of a picture, moved together in place.
fn crop(mut picture: Picture, [x, y]: [u32; 2], [width, height]: [u32; 2]) -> Picture {
    let (stride, row) = (picture.width as usize * 3, width as usize * 3);
    for i in 0..height as usize {
        let from = (y as usize + i) * stride + x as usize * 3;
        picture.rgb.copy_within(from..from + row, i * row);
    }
    picture.rgb.truncate(row * height as usize);
    Picture { width, height, ..picture }
}

fn stream(heif: &HeifPicture<'_>, tiles: &[HeifTile<'_>]) -> Result<CodedStream, Error> {
    let mut stream = CodedStream::new(if heif.codec == HeifCodec::Hevc { "hevc" } else { "ivf" })?;
    match heif.codec {
        HeifCodec::Hevc => tiles.iter().try_for_each(|tile| write_hevc(&mut stream, tile))?,
        HeifCodec::Av1 => {
            let [width, height] = heif.tile_size.map(|side| u16::try_from(side).unwrap_or(u16::MAX).to_le_bytes());
            // The head of an IVF file: the codec, the size, 25 pictures a second, and their number.
            stream.write(b"DKIF\0\0\x20\0AV01")?;
            stream.write(&[width, height].concat())?;
            for number in [25, 1, tiles.len() as u32, 0] {
                stream.write(&number.to_le_bytes())?;
            }
            (0..).zip(tiles).try_for_each(|(i, tile)| write_av1(&mut stream, tile, i))?;
        }
    }
    Ok(stream)
}

/// Writes the parameter sets and the units of a tile, each after a start code.
fn write_hevc(stream: &mut CodedStream, tile: &HeifTile<'_>) -> Result<(), Error> {
    const START: &[u8] = &[0, 0, 0, 1];
    /// Ends a sequence, so that the decoder returns the tile before the next one begins.
    const END_OF_SEQUENCE: &[u8] = &[0x24 << 1, 1];
    let length_bytes = length_bytes(tile.config);
    let mut arrays = tile.config.get(23..).unwrap_or_default();
    for _ in 0..tile.config.get(22).copied().unwrap_or(0) {
        let [_, high, low, rest @ ..] = arrays else { break };
        arrays = rest;
        for _ in 0..u16::from_be_bytes([*high, *low]) {
            let Some(unit) = unit(&mut arrays, 2) else { break };
            stream.write(START)?;
            stream.write(unit)?;
        }
    }
    let joined;
    let mut data = match tile.data[..] {
        [part] => part,
        _ => {
            joined = tile.data.concat();
            &joined[..]
        }
    };
    while let Some(unit) = unit(&mut data, length_bytes) {
        stream.write(START)?;
        stream.write(unit)?;
    }
    stream.write(START)?;
    stream.write(END_OF_SEQUENCE)
}

/// Size of the length before each unit.
fn length_bytes(config: &[u8]) -> usize {
    config.get(21).map_or(4, |byte| usize::from(byte & 3) + 1)
}

/// The next unit after its length; less of it if the data end early.
fn unit<'a>(data: &mut &'a [u8], length_bytes: usize) -> Option<&'a [u8]> {
    let (length, rest) = data.split_at_checked(length_bytes)?;
    let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    let (unit, rest) = rest.split_at(length.min(rest.len()));
    *data = rest;
    Some(unit)
}

/// Writes a tile as a frame of an IVF file.
fn write_av1(stream: &mut CodedStream, tile: &HeifTile<'_>, number: u64) -> Result<(), Error> {
    const TEMPORAL_DELIMITER: &[u8] = &[0x12, 0];
    // Most files repeat the header of the sequence in the data; a second one does no harm.
    let header = tile.config.get(4..).unwrap_or_default();
    let length = TEMPORAL_DELIMITER.len() + header.len() + tile.data.iter().map(|part| part.len()).sum::<usize>();
    stream.write(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes())?;
    stream.write(&number.to_le_bytes())?;
    stream.write(TEMPORAL_DELIMITER)?;
    stream.write(header)?;
    tile.data.iter().try_for_each(|part| stream.write(part))
}

fn fault(error: Error, job: &DecodeJob<'_>, codec: HeifCodec) -> DecodeFault {
    match error {
        Error::Cancelled { .. } => DecodeFault::Cancelled,
        Error::NoFfmpeg { program, reason } => {
            DecodeFault::NeedsFfmpeg(format!("cannot start {} ({reason})", program.display()))
        }
        Error::Limit { reason, .. } => undecoded(format!("decoding was stopped because it {reason}"), job, codec),
        other => DecodeFault::Other(other),
    }
}

/// The fault of a picture that ffmpeg did not decode.
fn undecoded(reason: String, job: &DecodeJob<'_>, codec: HeifCodec) -> DecodeFault {
    let lacks = ["not found for input stream", "Unknown input format", "doesn't support hardware accelerated"];
    if lacks.iter().any(|message| reason.contains(message)) {
        let codec = if codec == HeifCodec::Hevc { "HEVC" } else { "AV1" };
        return DecodeFault::NeedsFfmpeg(format!("the one that was found has no decoder for {codec}"));
    }
    if reason.contains("Cannot allocate memory") {
        let limit = PictureLimit::Bytes(job.limits.bytes);
        return DecodeFault::TooLarge { found: "needs much memory to decode".to_owned(), limit };
    }
    DecodeFault::Damaged(reason)
}
