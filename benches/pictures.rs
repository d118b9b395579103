//! What pictures of every format and shape cost: time, memory, and the time from a cancellation to the end.
//!
//!     cargo bench --bench pictures [-- FOLDER]
//!
//! With a folder, the pictures are written there and nothing is measured. The limits are those of the server,
//! and the pictures are the largest that it accepts, except for those that it refuses. "prepare" is what a
//! search does with the pixels: it finds borders and shrinks the picture three times. "stop" is the longest
//! of nine times from a cancellation to the return, spread over the decoding.

#![allow(missing_docs, clippy::unwrap_used, reason = "a program, not a library")]

#[path = "../tests/integration/support/allocations.rs"]
mod allocations;
#[path = "../tests/integration/support/hostile.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod hostile;

use std::path::Path;
use std::time::{Duration, Instant};

use image::{ExtendedColorType, ImageEncoder, ImageFormat};
use reelseek::Cancel;
use reelseek::media::image::read_within;
use reelseek::media::{PictureLimits, trim_borders};

use hostile::JpegScans;

/// The limits of the server.
const LIMITS: PictureLimits = PictureLimits { pixels: 50_000_000, bytes: 300_000_000 };
/// Cancellations of each picture.
const STOPS: u32 = 9;

type Make = Box<dyn Fn() -> Vec<u8>>;

/// Noise, which is what decoders are slowest with.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn encoded(format: ImageFormat, color: ExtendedColorType, [width, height]: [u32; 2]) -> Vec<u8> {
    let length = width as usize * height as usize * usize::from(color.bits_per_pixel()) / 8;
    let data = if format == ImageFormat::Gif { vec![0; length] } else { noise(length) };
    let mut bytes = std::io::Cursor::new(Vec::new());
    match format {
        ImageFormat::Gif => {
            image::codecs::gif::GifEncoder::new_with_speed(&mut bytes, 30).encode(&data, width, height, color).unwrap()
        }
        ImageFormat::WebP => {
            image::codecs::webp::WebPEncoder::new_lossless(&mut bytes).write_image(&data, width, height, color).unwrap()
        }
        format => image::write_buffer_with_format(&mut bytes, &data, width, height, color, format).unwrap(),
    }
    bytes.into_inner()
}

fn pictures() -> Vec<(String, Make)> {
    use ExtendedColorType::{Rgb8, Rgba8};
    let mut list: Vec<(String, Make)> = Vec::new();
    for (kind, color, depth) in [("grey", 0, 8), ("RGB", 2, 8), ("RGBA", 6, 8), ("RGB16", 2, 16), ("RGBA16", 6, 16)] {
        for size in [[7071, 7071], [1_000_000, 50], [50, 1_000_000], [50_000_000, 1], [1, 50_000_000]] {
            let name = format!("PNG {kind} {} x {}", size[0], size[1]);
            list.push((name, Box::new(move || hostile::png(size, color, depth))));
        }
    }
    list.push(("PNG 25000000 x 2".to_owned(), Box::new(|| hostile::png([25_000_000, 2], 0, 8))));
    list.push(("PNG RGBA16 5800 x 5800".to_owned(), Box::new(|| hostile::png([5800, 5800], 6, 16))));
    list.push(("PNG with iCCP of 400 MB".to_owned(), Box::new(|| hostile::png_metadata_bomb(400_000_000))));
    list.push(("PNG with iCCP of 2.9 GB".to_owned(), Box::new(|| hostile::png_metadata_bomb(2_900_000_000))));
    for (name, scans, sampling, side) in [
        ("baseline", JpegScans::Baseline, 0x22, 7070),
        ("in scans", JpegScans::Separate, 0x22, 6700),
        ("progressive", JpegScans::Progressive, 0x22, 6700),
        ("progressive 4:4:4", JpegScans::Progressive, 0x11, 5500),
    ] {
        let make = move || hostile::jpeg([side; 2], sampling, scans);
        list.push((format!("JPEG {name} {side} x {side}"), Box::new(make)));
    }
    for (name, format, color, side) in [
        ("JPEG noise", ImageFormat::Jpeg, Rgb8, 4500),
        ("WebP lossless", ImageFormat::WebP, Rgb8, 2800),
        ("WebP lossless with alpha", ImageFormat::WebP, Rgba8, 2400),
        ("GIF", ImageFormat::Gif, Rgba8, 7070),
        ("TIFF", ImageFormat::Tiff, Rgb8, 2880),
        ("BMP", ImageFormat::Bmp, Rgb8, 2880),
        ("PNM", ImageFormat::Pnm, Rgb8, 2880),
        ("QOI", ImageFormat::Qoi, Rgb8, 2400),
    ] {
        let make = move || encoded(format, color, [side; 2]);
        list.push((format!("{name} {side} x {side}"), Box::new(make)));
    }
    list.push(("WebP lossy 7070 x 7070".to_owned(), Box::new(|| hostile::webp_lossy([7070; 2]))));
    list.push(("WebP lossy with alpha 4700 x 4700".to_owned(), Box::new(|| hostile::webp_alpha([4700; 2]))));
    list
}

/// The longest time from a cancellation to the return, and how often the decoding was still at work then.
fn stops(bytes: &[u8], total: Duration) -> (Duration, u32) {
    let (mut longest, mut stopped) = (Duration::ZERO, 0);
    for part in 1..=STOPS {
        let cancel = Cancel::default();
        let flag = cancel.clone();
        let timer = std::thread::spawn(move || {
            std::thread::sleep(total * part / (STOPS + 1));
            flag.set();
            Instant::now()
        });
        let outcome = read_within(bytes, "a", &LIMITS, &cancel);
        let end = Instant::now();
        drop(outcome);
        let set = timer.join().unwrap();
        if end > set {
            stopped += 1;
            longest = longest.max(end - set);
        }
    }
    (longest, stopped)
}

fn main() {
    let folder = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    println!("| picture | file | decode | prepare | peak | stop | outcome |");
    println!("|---|---:|---:|---:|---:|---:|---|");
    for (name, make) in pictures() {
        let bytes = make();
        if let Some(folder) = &folder {
            std::fs::write(Path::new(folder).join(name.replace(' ', "_")), &bytes).unwrap();
            continue;
        }
        let start = Instant::now();
        let ((outcome, decoded, prepared), peak) = allocations::peak(|| {
            let outcome = read_within(&bytes, "a", &LIMITS, &Cancel::default());
            let decoded = start.elapsed();
            if let Ok(opened) = &outcome {
                let trimmed = trim_borders(&opened.picture).unwrap_or(opened.picture.view());
                std::hint::black_box((opened.picture.resize(64, 64), trimmed.resize(64, 64), trimmed.resize(64, 64)));
            }
            (outcome, decoded, start.elapsed() - decoded)
        });
        let stop = match &outcome {
            Ok(_) => format!("{} ms", stops(&bytes, decoded).0.as_millis()),
            Err(_) => String::new(),
        };
        let outcome = outcome.map_or_else(|error| error.to_string(), |_| "read".to_owned());
        println!(
            "| {name} | {} kB | {} ms | {} ms | {} MB | {stop} | {outcome} |",
            bytes.len() / 1000,
            decoded.as_millis(),
            prepared.as_millis(),
            peak.div_ceil(1_000_000),
        );
    }
}
