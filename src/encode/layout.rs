//! The embedded encoder `layout`: where light, colour and edges are in the picture.
//!
//! A picture, stretched to 64x64, becomes 8 planes of 8x8 cells, 512 numbers in all:
//!
//! | plane | content of a cell | normalisation |
//! |---|---|---|
//! | 0 | mean of luma Y | minus the plane's mean, divided by √(‖y‖² + 32²) |
//! | 1, 2 | means of Cb, Cr (BT.601) | minus half of the plane's mean, both divided by √(‖c‖² + 45.2²) |
//! | 3..8 | √ of the mean gradient energy at 0°, 36°, 72°, 108°, 144° | minus the plane's mean, all five divided by √(‖g‖² + 4²) |
//!
//! A pixel with gradient `(gx, gy)` (central differences) gives `|g|·cos⁴(θ − θₖ)` to orientation `k`. Five
//! orientations of cos⁴ sum to a constant, so no edge direction weighs more than another. The constants under
//! the roots keep noise in nearly flat pictures from being amplified to full contrast. The idea comes from
//! the MPEG-7 colour layout and edge histogram descriptors (ISO/IEC 15938-3) and from HOG (Dalal and Triggs,
//! 2005).
//!
//! Only `+ − × ÷ √` in a fixed order are used, so the same pixels give the same bits on every machine.
//!
//! * image features: `Q (f − μ)`, 128 numbers; `Q` (128 x 512) has orthonormal rows and is embedded;
//! * clip features: the descriptors of 8 frames, 2 s at 4 frames a second, concatenated: 4096 numbers.

use crate::base::tensors::{self, NamedTensor, StoredPrecision};
use crate::media::{Fit, Picture};

use super::{Descriptor, Encoder, EncoderInfo, Error, FLAT_DEVIATION, Sampling, deviation};

/// Name and version that indexes and checkpoints record.
pub const ID: &str = "layout/1";
/// Length of the descriptor of one frame.
pub const DESCRIPTOR_LEN: usize = 512;
/// Length of the features of an image.
pub const IMAGE_LEN: usize = 128;
/// Frames in a clip.
pub const CLIP_FRAMES: usize = 8;
/// Length of the features of a clip.
pub const CLIP_LEN: usize = CLIP_FRAMES * DESCRIPTOR_LEN;
/// Clips of 8 frames in 2 s, one starting each second.
pub const SAMPLING: Sampling = Sampling {
    rate_hz: 4.0,
    frames_per_clip: CLIP_FRAMES,
    stride_frames: 4,
    width: SIDE as u32,
    height: SIDE as u32,
    fit: Fit::Stretch,
};

const SIDE: usize = 64;
const GRID: usize = 8;
const CELL: usize = SIDE / GRID;
const CELLS: usize = GRID * GRID;
const ORIENTATIONS: usize = 5;

/// (cos, sin) of k·36° as constants, because the C library's functions differ between machines in the last
/// bit.
const DIRECTIONS: [(f32, f32); ORIENTATIONS] = [
    (1.0, 0.0),
    (0.809_017, 0.587_785_25),
    (0.309_017, 0.951_056_54),
    (-0.309_017, 0.951_056_54),
    (-0.809_017, 0.587_785_25),
];

/// Added under the root of each normaliser: the contrast, in grey levels over the cells of the block, below
/// which a picture counts as nearly flat.
const LUMA_FLOOR: f32 = 32.0;
const CHROMA_FLOOR: f32 = 45.2;
const GRADIENT_FLOOR: f32 = 4.0;

/// The descriptor of a picture of any size: 512 numbers.
pub fn describe(picture: &Picture) -> Descriptor {
    let side = SIDE as u32;
    if picture.width == side && picture.height == side {
        return describe_rgb(&picture.rgb);
    }
    describe_rgb(&picture.resize(side, side).rgb)
}

fn describe_rgb(rgb: &[u8]) -> Descriptor {
    let mut luma = vec![0f32; SIDE * SIDE];
    let mut planes = [[0f32; CELLS]; 3];
    for (i, (pixel, luma)) in rgb.chunks_exact(3).zip(&mut luma).enumerate() {
        let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(f32::from);
        let y = 0.299 * r + 0.587 * g + 0.114 * b;
        *luma = y;
        let cell = cell_of(i % SIDE, i / SIDE);
        planes[0][cell] += y;
        planes[1][cell] += (b - y) * 0.564;
        planes[2][cell] += (r - y) * 0.713;
    }
    if deviation(luma.iter().copied()) < FLAT_DEVIATION {
        return Descriptor::flat(DESCRIPTOR_LEN);
    }
    let area = (CELL * CELL) as f32;
    for value in planes.iter_mut().flatten() {
        *value /= area;
    }

    let mut values = Vec::with_capacity(DESCRIPTOR_LEN);
    subtract_mean(&mut planes[0], 1.0);
    values.extend_from_slice(&planes[0]);
    normalise(&mut values[..CELLS], LUMA_FLOOR);
    for plane in &mut planes[1..] {
        // Half of the mean stays: the overall hue distinguishes scenes, but a colour cast should not decide.
        subtract_mean(plane, 0.5);
        values.extend_from_slice(plane);
    }
    normalise(&mut values[CELLS..3 * CELLS], CHROMA_FLOOR);
    for plane in &mut gradients(&luma) {
        for value in plane.iter_mut() {
            *value = (*value / area).sqrt();
        }
        subtract_mean(plane, 1.0);
        values.extend_from_slice(plane);
    }
    normalise(&mut values[3 * CELLS..], GRADIENT_FLOOR);
    Descriptor::new(values)
}

/// The index in a picture's descriptor of number `to` of the mirrored picture: the column counted from the
/// other side and, for gradients, the orientation 180° − θ instead of θ.
pub(crate) fn mirror_index(to: usize) -> usize {
    let (plane, cell) = (to / CELLS, to % CELLS);
    let plane = match plane.checked_sub(3) {
        Some(k) => 3 + (ORIENTATIONS - k) % ORIENTATIONS,
        None => plane,
    };
    let (row, column) = (cell / GRID, cell % GRID);
    plane * CELLS + row * GRID + (GRID - 1 - column)
}

fn cell_of(x: usize, y: usize) -> usize {
    (y / CELL) * GRID + x / CELL
}

fn subtract_mean(plane: &mut [f32], share: f32) {
    let mean = plane.iter().sum::<f32>() / plane.len() as f32 * share;
    for value in plane {
        *value -= mean;
    }
}

fn normalise(block: &mut [f32], floor: f32) {
    let norm = (block.iter().map(|v| v * v).sum::<f32>() + floor * floor).sqrt();
    for value in block {
        *value /= norm;
    }
}

fn gradients(luma: &[f32]) -> [[f32; CELLS]; ORIENTATIONS] {
    let mut planes = [[0f32; CELLS]; ORIENTATIONS];
    for y in 0..SIDE {
        for x in 0..SIDE {
            let at = y * SIDE + x;
            let gx = if x > 0 && x + 1 < SIDE { luma[at + 1] - luma[at - 1] } else { 0.0 };
            let gy = if y > 0 && y + 1 < SIDE { luma[at + SIDE] - luma[at - SIDE] } else { 0.0 };
            let squared = gx * gx + gy * gy;
            if squared < 1e-6 {
                continue;
            }
            // |g|·cos⁴ = p⁴ / |g|³, where p is the projection on the direction.
            let scale = 1.0 / (squared * squared.sqrt());
            let cell = cell_of(x, y);
            for (plane, (cos, sin)) in planes.iter_mut().zip(DIRECTIONS) {
                let p = gx * cos + gy * sin;
                let p2 = p * p;
                plane[cell] += p2 * p2 * scale;
            }
        }
    }
    planes
}

/// The frozen map from a descriptor to image features: `Q (f − μ)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Projection {
    /// μ, 512 numbers: the mean descriptor.
    pub mean: Vec<f32>,
    /// Q, 128 x 512, row after row; its rows are orthonormal.
    pub rows: Vec<f32>,
}

impl Projection {
    /// Reads a projection from the bytes of a safetensors file with `mean` (512) and `projection` (128, 512),
    /// f16 or f32.
    ///
    /// # Errors
    /// [`Error::Projection`] if the file is damaged, lacks a tensor, or has a tensor of another shape.
    pub fn parse(bytes: &[u8], name: &str) -> Result<Projection, Error> {
        let fault = |found: String| Error::Projection { path: name.into(), found };
        let file = tensors::parse(bytes).map_err(|e| fault(e.to_string()))?;
        let mean = file.take("mean", &[DESCRIPTOR_LEN]).map_err(|e| fault(e.to_string()))?;
        let rows = file.take("projection", &[IMAGE_LEN, DESCRIPTOR_LEN]).map_err(|e| fault(e.to_string()))?;
        Ok(Projection { mean, rows })
    }

    /// The bytes of a file that [`Projection::parse`] reads, with numbers as f16.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mean = NamedTensor::new("mean", &[DESCRIPTOR_LEN], &self.mean);
        let rows = NamedTensor::new("projection", &[IMAGE_LEN, DESCRIPTOR_LEN], &self.rows);
        tensors::write(&[mean, rows], StoredPrecision::F16, [("encoder".to_owned(), ID.to_owned())].into())
    }
}

/// The encoder: descriptor plus projection.
#[derive(Debug, Clone)]
pub struct LayoutEncoder {
    projection: Projection,
    info: EncoderInfo,
}

impl LayoutEncoder {
    /// The encoder with the embedded projection.
    pub fn embedded() -> LayoutEncoder {
        let bytes = include_bytes!("../../assets/layout.safetensors");
        LayoutEncoder::with_projection(
            Projection::parse(bytes, "the embedded projection").expect("a test of this module parses it"),
        )
    }

    /// The encoder with another projection, for example a newly fitted one.
    pub fn with_projection(projection: Projection) -> LayoutEncoder {
        let info = EncoderInfo {
            name: "layout".to_owned(),
            id: ID.to_owned(),
            image_len: IMAGE_LEN,
            clip_len: CLIP_LEN,
            descriptor_len: DESCRIPTOR_LEN,
            sampling: SAMPLING,
            same_scene: true,
            ordered: false,
            mean_offsets: (0..CLIP_FRAMES).map(|i| i * DESCRIPTOR_LEN).collect(),
        };
        LayoutEncoder { projection, info }
    }

    /// The projection in use.
    pub fn projection(&self) -> &Projection {
        &self.projection
    }
}

impl Encoder for LayoutEncoder {
    fn info(&self) -> &EncoderInfo {
        &self.info
    }

    fn describe(&self, pictures: &[Picture]) -> Result<Vec<Descriptor>, Error> {
        Ok(pictures.iter().map(describe).collect())
    }

    /// A permutation of the descriptor.
    fn mirrored(&self, descriptor: &Descriptor) -> Option<Descriptor> {
        let values = (0..DESCRIPTOR_LEN).map(|to| descriptor.values[mirror_index(to)]).collect();
        Some(Descriptor { values, flat: descriptor.flat })
    }

    /// 128 numbers.
    fn image(&self, descriptor: &Descriptor) -> Result<Vec<f32>, Error> {
        let centred: Vec<f32> = descriptor.values.iter().zip(&self.projection.mean).map(|(v, m)| v - m).collect();
        let rows = self.projection.rows.chunks_exact(DESCRIPTOR_LEN);
        Ok(rows.map(|row| row.iter().zip(&centred).map(|(a, b)| a * b).sum()).collect())
    }

    /// 4096 numbers: the frames' descriptors one after the other. A clip of fewer than 8 frames repeats its
    /// last frame. A flat frame contributes the mean descriptor, which is neutral.
    fn clip(&self, frames: &[&Descriptor]) -> Result<Option<Vec<f32>>, Error> {
        let Some(last) = frames.last().filter(|_| frames.iter().any(|f| !f.flat)) else { return Ok(None) };
        let mut features = Vec::with_capacity(CLIP_LEN);
        for i in 0..CLIP_FRAMES {
            let frame = frames.get(i).unwrap_or(last);
            features.extend_from_slice(if frame.flat { &self.projection.mean } else { &frame.values });
        }
        Ok(Some(features))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(width: u32, height: u32, mut seed: u32) -> Picture {
        let rgb = (0..width * height * 3)
            .map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (seed >> 24) as u8
            })
            .collect();
        Picture { width, height, rgb }
    }

    #[test]
    fn mirror_of_descriptor_is_descriptor_of_mirror() {
        let picture = noise(64, 64, 7);
        let direct = describe(&picture.flipped());
        let derived = LayoutEncoder::embedded().mirrored(&describe(&picture)).unwrap();
        for (a, b) in direct.values().iter().zip(derived.values()) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
    }

    #[test]
    fn only_pictures_without_contrast_are_flat() {
        for grey in [0, 128, 255] {
            let d = describe(&Picture { width: 50, height: 30, rgb: vec![grey; 50 * 30 * 3] });
            assert!(d.is_flat() && d.values().iter().all(|v| *v == 0.0));
        }
        assert!(!describe(&noise(64, 64, 1)).is_flat());
    }

    #[test]
    fn descriptor_bits_are_pinned() {
        // Equal on every machine. A change here changes every index: then raise the version in ID.
        let d = describe(&noise(64, 64, 3));
        let hash = d
            .values()
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |h, v| (h ^ u64::from(v.to_bits())).wrapping_mul(0x0100_0000_01b3));
        assert_eq!(format!("{hash:016x}"), PINNED);
    }
    const PINNED: &str = "440d0505dbc2badf";

    #[test]
    fn embedded_projection_has_orthonormal_rows() {
        let encoder = LayoutEncoder::embedded();
        let row = |i: usize| &encoder.projection().rows[i * DESCRIPTOR_LEN..(i + 1) * DESCRIPTOR_LEN];
        for i in [0, 1, 63, 127] {
            for j in [0, 1, 63, 127] {
                let dot: f32 = row(i).iter().zip(row(j)).map(|(a, b)| a * b).sum();
                assert!((dot - f32::from(u8::from(i == j))).abs() < 2e-3, "{i} {j} {dot}");
            }
        }
    }

    #[test]
    fn a_short_clip_repeats_its_last_frame_and_a_flat_clip_is_none() {
        let encoder = LayoutEncoder::embedded();
        let d = describe(&noise(64, 64, 9));
        let clip = encoder.clip(&[&d]).unwrap().unwrap();
        assert_eq!(clip.len(), CLIP_LEN);
        assert_eq!(&clip[..DESCRIPTOR_LEN], &clip[7 * DESCRIPTOR_LEN..]);
        let flat = describe(&Picture { width: 8, height: 8, rgb: vec![0; 192] });
        assert!(encoder.clip(&[&flat, &flat]).unwrap().is_none());
        assert!(encoder.clip(&[]).unwrap().is_none());
    }
}
