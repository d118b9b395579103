//! The second stage of a search: compares the query picture with single frames.
//!
//! The index stores a sketch of each row: the luma of its middle frame, stretched to 32 x 32 cells of 8 bits.
//! A query on the web may be a copy of a frame that was cropped anywhere, rotated a little, framed by a
//! surround, or mirrored. The query is compared with a sketch for each of these cases and as a whole. The
//! score is the highest normalised cross-correlation. The local mean is removed from both, so that
//! brightness, contrast and slow shading have no influence:
//!
//! `ncc = Σ q f / √((Σ q² + floor) (Σ f² + floor))`
//!
//! The sums are over the overlap, `q` and `f` are relative to their means there, and `floor` is 2.25 (1.5
//! grey levels squared) per cell.

use super::bars::Contents;
use super::parts::refine::correlation_within;
use crate::media::{Picture, PictureView};

/// Side of a sketch in cells.
pub const SIDE: usize = 32;
/// Size of a sketch in bytes.
pub const BYTES: usize = SIDE * SIDE;

/// Half the side of the window whose mean is removed.
const BLUR: usize = 3;
/// Standard deviation in grey levels that counts as flat.
const FLOOR: f32 = 1.5;

/// Shares of the frame's sides that a cropped query contains.
const CROPS: [f32; 6] = [0.95, 0.9, 0.85, 0.8, 0.75, 0.7];
/// Shares of the query's sides that the frame fills in a query with a surround.
const INSETS: [f32; 4] = [0.93, 0.86, 0.79, 0.72];
/// Rotations of a query in degrees.
const ANGLES: [f32; 4] = [-4.0, -2.0, 2.0, 4.0];
/// Share of a rotated query's sides that is compared. The corners are left out.
const ROTATED: f32 = 0.86;

/// The sketch of a frame of any size.
pub fn sketch(picture: &Picture) -> Vec<u8> {
    let small = picture.resize(SIDE as u32, SIDE as u32);
    (0..BYTES).map(|i| small.luma((i % SIDE) as u32, (i / SIDE) as u32)).collect()
}

/// A part of the query in one size, with zero mean and length 1.
struct Template {
    width: usize,
    height: usize,
    /// Whether it is compared at the frame's upper left corner only, or at every position.
    fixed: bool,
    /// An even number of rows of [`SIDE`] numbers, zero beyond `width` and `height`.
    values: Vec<f32>,
}

/// The templates of a query picture, which are compared with sketches.
pub struct QueryTemplates {
    /// Templates of the picture and of the mirrored picture.
    templates: [Vec<Template>; 2],
    /// Luma of the picture and of the mirrored picture, in the cells of a sketch.
    luma: [Vec<f32>; 2],
}

/// What the correlation of contents loses at most because the picture was moved or rotated a little.
const MOVED: f32 = 0.15;

impl QueryTemplates {
    /// Templates for all supported changes of a frame (see the module).
    pub fn new<'a>(picture: impl Into<PictureView<'a>>) -> QueryTemplates {
        let picture = picture.into();
        let luma = LumaSquare::of(picture, 2 * SIDE);
        let aspect = picture.width() as f32 / picture.height() as f32;
        let whole = [0.5, 0.5];
        let mut templates = Vec::new();
        let full = luma.part(whole, 1.0, SIDE);
        // Subtitles may cover the lower fifth.
        templates.push(Template::of(&full, SIDE, SIDE * 4 / 5, true));
        templates.push(Template::of(&full, SIDE, SIDE, true));
        for share in CROPS {
            let side = (share * SIDE as f32).round() as usize;
            templates.push(Template::of(&luma.part(whole, 1.0, side), side, side, false));
        }
        for share in INSETS {
            let room = (1.0 - share) / 2.0 * 0.6;
            for middle in (0..9).map(|i| [(i % 3) as f32 - 1.0, (i / 3) as f32 - 1.0]) {
                let part = luma.part(middle.map(|d| 0.5 + d * room), share, SIDE);
                templates.push(Template::of(&part, SIDE, SIDE, true));
            }
        }
        let side = (ROTATED * SIDE as f32).round() as usize;
        for angle in ANGLES {
            templates.push(Template::of(&luma.rotated(ROTATED, angle, aspect, side), side, side, false));
        }
        // Positions and angles are symmetric, so the templates of the mirrored picture are the mirrored
        // templates.
        let mirrored = templates.iter().map(Template::mirrored).collect();
        let small = picture.resize(SIDE as u32, SIDE as u32);
        let cell = |x: usize, y: usize| f32::from(small.luma(x as u32, y as u32));
        let upright = (0..BYTES).map(|i| cell(i % SIDE, i / SIDE)).collect();
        let exchanged = (0..BYTES).map(|i| cell(SIDE - 1 - i % SIDE, i / SIDE)).collect();
        QueryTemplates { templates: [templates, mirrored], luma: [upright, exchanged] }
    }

    /// The highest correlation of the picture, or of the mirrored picture, with a sketch: -1 to 1. If both
    /// have bars in common, only their contents count.
    ///
    /// # Panics
    /// If the length of the sketch is not [`BYTES`].
    pub fn score(&self, sketch: &[u8], mirrored: bool) -> f32 {
        let plane = SketchPlane::of(sketch);
        let templates = &self.templates[usize::from(mirrored)];
        let best = pulp::Arch::new().dispatch(BestCorrelation { plane: &plane, templates });
        let frame: Vec<f32> = sketch.iter().map(|luma| f32::from(*luma)).collect();
        let luma = &self.luma[usize::from(mirrored)];
        let Some(contents) = Contents::of_both(luma, &frame) else { return best };
        let in_place = correlation_within(luma, &frame, &contents.mask);
        let stretched = contents.stretched(luma, &frame);
        let stretched = stretched.map_or(-1.0, |[q, f]| correlation_within(&q, &f, &[true; BYTES]));
        best.min(in_place.max(stretched) + MOVED)
    }
}

/// The comparison of all templates with one plane. It is a type and not a closure, because the compiler does
/// not inline a closure of this size into the function that may use the processor's widest vectors.
struct BestCorrelation<'a> {
    plane: &'a SketchPlane,
    templates: &'a [Template],
}

impl pulp::WithSimd for BestCorrelation<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) -> f32 {
        let mut best = -1.0f32;
        for template in self.templates {
            best = best.max(self.plane.best(simd, template));
        }
        best
    }
}

impl Template {
    /// The upper left part of a square whose local mean is removed.
    fn of(square: &LumaSquare, width: usize, height: usize, fixed: bool) -> Template {
        let mut values = vec![0f32; SIDE * height.next_multiple_of(2)];
        let rows = square.values.chunks_exact(square.side).take(height);
        values.chunks_exact_mut(SIDE).zip(rows).for_each(|(out, row)| out[..width].copy_from_slice(&row[..width]));
        let cells = || values.chunks_exact(SIDE).take(height).flat_map(|row| &row[..width]);
        let count = (width * height) as f32;
        let mean = cells().sum::<f32>() / count;
        let squares = cells().map(|v| (v - mean) * (v - mean)).sum::<f32>();
        let norm = (squares + count * FLOOR * FLOOR).sqrt();
        let rows = values.chunks_exact_mut(SIDE).take(height);
        rows.for_each(|row| row[..width].iter_mut().for_each(|v| *v = (*v - mean) / norm));
        Template { width, height, fixed, values }
    }

    fn mirrored(&self) -> Template {
        let mut values = self.values.clone();
        values.chunks_exact_mut(SIDE).for_each(|row| row[..self.width].reverse());
        Template { values, ..*self }
    }
}

/// Luma of a picture stretched to a square.
struct LumaSquare {
    side: usize,
    values: Vec<f32>,
}

impl LumaSquare {
    fn of(picture: PictureView<'_>, side: usize) -> LumaSquare {
        let small = picture.resize(side as u32, side as u32);
        let luma = |i: usize| f32::from(small.luma((i % side) as u32, (i / side) as u32));
        LumaSquare { side, values: (0..side * side).map(luma).collect() }
    }

    fn at(&self, x: f32, y: f32) -> f32 {
        let ((x0, x1, fx), (y0, y1, fy)) = (self.between(x), self.between(y));
        let value = |x: usize, y: usize| self.values[y * self.side + x];
        (value(x0, y0) * (1.0 - fx) + value(x1, y0) * fx) * (1.0 - fy)
            + (value(x0, y1) * (1.0 - fx) + value(x1, y1) * fx) * fy
    }

    /// The part with `share` of the sides around `middle` (a position in shares of the sides), resized to
    /// `side` x `side`, without its local mean.
    fn part(&self, middle: [f32; 2], share: f32, side: usize) -> LumaSquare {
        let [columns, rows] = middle.map(|middle| {
            let step = share * self.side as f32 / side as f32;
            let first = middle * self.side as f32 - step * side as f32 / 2.0 - 0.5;
            (0..2 * side).map(|i| self.between(first + (i as f32 / 2.0 + 0.25) * step)).collect::<Vec<_>>()
        });
        // Two samples per cell and direction, as in `rotated`: first along the rows, then along the columns.
        let mut across = Vec::with_capacity(side * self.side);
        for row in self.values.chunks_exact(self.side) {
            let sample = |(low, high, part): &(usize, usize, f32)| row[*low] * (1.0 - part) + row[*high] * part;
            across.extend(columns.chunks_exact(2).map(|pair| (sample(&pair[0]) + sample(&pair[1])) / 2.0));
        }
        let mut values = vec![0f32; side * side];
        for (out, pair) in values.chunks_exact_mut(side).zip(rows.chunks_exact(2)) {
            for (low, high, part) in pair {
                let (low, high) = (&across[low * side..][..side], &across[high * side..][..side]);
                (0..side).for_each(|i| out[i] += (low[i] * (1.0 - part) + high[i] * part) / 2.0);
            }
        }
        remove_local_mean(&mut values, side);
        LumaSquare { side, values }
    }

    /// The two cells beside a position along a side, and the share of the second.
    fn between(&self, at: f32) -> (usize, usize, f32) {
        let at = at.clamp(0.0, (self.side - 1) as f32);
        let low = at as usize;
        (low, (low + 1).min(self.side - 1), at - low as f32)
    }

    /// The middle `share` of the sides, rotated by `angle` degrees, resized to `side` x `side`, without its
    /// local mean. `aspect` is width / height of the picture before it was stretched to a square: the
    /// rotation applies to that shape.
    fn rotated(&self, share: f32, angle: f32, aspect: f32, side: usize) -> LumaSquare {
        let (sin, cos) = angle.to_radians().sin_cos();
        let middle = self.side as f32 / 2.0;
        let step = share * self.side as f32 / side as f32;
        let mut values = Vec::with_capacity(side * side);
        for row in 0..side {
            for column in 0..side {
                // Four samples per cell, because a cell may be twice as wide as a cell of this square.
                let sample = |(oy, ox): (f32, f32)| {
                    let (u, v) = (column as f32 + ox - side as f32 / 2.0, row as f32 + oy - side as f32 / 2.0);
                    let (x, y) = ((u * cos - v * sin / aspect) * step, (u * sin * aspect + v * cos) * step);
                    self.at(middle + x - 0.5, middle + y - 0.5)
                };
                values.push(
                    [(0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75)].map(sample).iter().sum::<f32>() / 4.0,
                );
            }
        }
        remove_local_mean(&mut values, side);
        LumaSquare { side, values }
    }
}

/// A sketch without its local mean, and the sums for the statistics of windows.
struct SketchPlane {
    /// [`SIDE`] rows of 2 [`SIDE`] numbers, zero on the right, and one row of zeros.
    values: Vec<f32>,
    /// Sums of the values and of their squares above and to the left of each corner (summed-area table).
    sums: Vec<(f64, f64)>,
}

impl SketchPlane {
    fn of(sketch: &[u8]) -> SketchPlane {
        assert_eq!(sketch.len(), BYTES, "bytes of a sketch");
        let mut square: Vec<f32> = sketch.iter().map(|v| f32::from(*v)).collect();
        remove_local_mean(&mut square, SIDE);
        let mut values = vec![0f32; 2 * (SIDE + 1) * SIDE];
        let mut sums = vec![(0.0, 0.0); (SIDE + 1) * (SIDE + 1)];
        for (y, row) in square.chunks_exact(SIDE).enumerate() {
            values[2 * y * SIDE..][..SIDE].copy_from_slice(row);
            let mut line = (0.0, 0.0);
            for (x, v) in row.iter().enumerate() {
                line = (line.0 + f64::from(*v), line.1 + f64::from(v * v));
                let above = sums[y * (SIDE + 1) + x + 1];
                sums[(y + 1) * (SIDE + 1) + x + 1] = (above.0 + line.0, above.1 + line.1);
            }
        }
        SketchPlane { values, sums }
    }

    /// `Σ (f - mean)²` of a window.
    #[inline(always)]
    fn spread(&self, x: usize, y: usize, template: &Template) -> f32 {
        let at = |x: usize, y: usize| self.sums[y * (SIDE + 1) + x];
        let (x1, y1) = (x + template.width, y + template.height);
        let [a, b, c, d] = [at(x1, y1), at(x, y1), at(x1, y), at(x, y)];
        let (sum, squares) = (a.0 - b.0 - c.0 + d.0, a.1 - b.1 - c.1 + d.1);
        (squares - sum * sum / (template.width * template.height) as f64).max(0.0) as f32
    }

    #[inline(always)]
    fn best<S: pulp::Simd>(&self, simd: S, template: &Template) -> f32 {
        let floor = (template.width * template.height) as f32 * FLOOR * FLOOR;
        let (right, down) = match template.fixed {
            true => (0, 0),
            false => (SIDE - template.width, SIDE - template.height),
        };
        let mut best = -1.0f32;
        for y in 0..=down {
            for x in 0..=right {
                let product = self.product(simd, x, y, template);
                best = best.max(product / (self.spread(x, y, template) + floor).sqrt());
            }
        }
        best
    }

    /// `Σ q f` of a window: two rows at a time, in four independent sums.
    #[inline(always)]
    fn product<S: pulp::Simd>(&self, simd: S, x: usize, y: usize, template: &Template) -> f32 {
        let mut sums = [simd.splat_f32s(0.0); 4];
        for (pair, expected) in template.values.chunks_exact(2 * SIDE).enumerate() {
            let row = |row: usize| &self.values[2 * (y + row) * SIDE + x..][..SIDE];
            let (above, below) = (S::as_simd_f32s(row(2 * pair)).0, S::as_simd_f32s(row(2 * pair + 1)).0);
            let (first, second) = (S::as_simd_f32s(&expected[..SIDE]).0, S::as_simd_f32s(&expected[SIDE..]).0);
            let mut i = 0;
            // A row has 32 numbers and a vector at most 16, so the number of vectors is even.
            while i + 1 < above.len() {
                sums[0] = simd.mul_add_e_f32s(above[i], first[i], sums[0]);
                sums[1] = simd.mul_add_e_f32s(above[i + 1], first[i + 1], sums[1]);
                sums[2] = simd.mul_add_e_f32s(below[i], second[i], sums[2]);
                sums[3] = simd.mul_add_e_f32s(below[i + 1], second[i + 1], sums[3]);
                i += 2;
            }
        }
        simd.reduce_sum_f32s(simd.add_f32s(simd.add_f32s(sums[0], sums[1]), simd.add_f32s(sums[2], sums[3])))
    }
}

/// Subtracts from each value the mean of the window around it.
fn remove_local_mean(values: &mut [f32], side: usize) {
    let reach = |at: usize| (at.saturating_sub(BLUR), (at + BLUR + 1).min(side));
    let shares: Vec<f32> = (0..side).map(|x| 1.0 / (reach(x).1 - reach(x).0) as f32).collect();
    let original = values.to_vec();
    // Sums of the columns over the window of a row, with zeros on both sides.
    let mut columns = vec![0f32; side + 2 * BLUR];
    for (y, row) in values.chunks_exact_mut(side).enumerate() {
        let (first, end) = reach(y);
        columns[BLUR..BLUR + side].fill(0.0);
        for above in original[first * side..end * side].chunks_exact(side) {
            columns[BLUR..].iter_mut().zip(above).for_each(|(sum, v)| *sum += v);
        }
        let share = 1.0 / (end - first) as f32;
        for (x, v) in row.iter_mut().enumerate() {
            *v -= columns[x..=x + 2 * BLUR].iter().sum::<f32>() * shares[x] * share;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::seeded::Random;
    use crate::media::distort::Distortion;

    /// A picture of overlapping discs, drawn from a seed.
    fn scene(seed: u64) -> Picture {
        let mut random = Random::new(seed, "align");
        let blobs: Vec<[f32; 4]> = (0..24)
            .map(|_| {
                [
                    random.up_to(320) as f32,
                    random.up_to(180) as f32,
                    8.0 + random.up_to(40) as f32,
                    random.up_to(255) as f32,
                ]
            })
            .collect();
        let value = |x: f32, y: f32| {
            let over = blobs.iter().rfind(|[bx, by, r, _]| (x - bx).hypot(y - by) < *r);
            over.map_or(100.0, |[_, _, _, v]| *v) as u8
        };
        let rgb = (0..320 * 180).flat_map(|i| [value((i % 320) as f32, (i / 320) as f32); 3]).collect();
        Picture { width: 320, height: 180, rgb }
    }

    /// The higher score of the picture and its mirror image.
    fn score(query: &Picture, frame: &Picture) -> f32 {
        let (query, sketch) = (QueryTemplates::new(query), sketch(frame));
        query.score(&sketch, false).max(query.score(&sketch, true))
    }

    #[test]
    fn a_distorted_frame_scores_high_on_its_own_frame_and_low_on_others() {
        let frame = scene(1);
        for distortion in Distortion::TRAINING {
            let query = distortion.apply(&frame, &mut Random::new(5, distortion.name()));
            let own = score(&query, &frame);
            assert!(own > 0.6, "{}: {own}", distortion.name());
            for other in 2..8 {
                let foreign = score(&query, &scene(other));
                assert!(
                    foreign < own - 0.15,
                    "{}: {own} on its own frame, {foreign} on scene {other}",
                    distortion.name()
                );
            }
        }
    }

    #[test]
    fn a_frame_on_itself_scores_1_at_any_brightness() {
        let frame = scene(3);
        let query = QueryTemplates::new(&frame);
        let plain = query.score(&sketch(&frame), false);
        assert!((0.97..=1.0).contains(&plain), "{plain}");
        let dark: Vec<u8> = sketch(&frame).iter().map(|v| v / 2 + 20).collect();
        assert!((query.score(&dark, false) - plain).abs() < 0.03);
        let mirrored = query.score(&sketch(&frame.flipped()), true);
        assert!((mirrored - plain).abs() < 0.02, "{mirrored}");
    }

    #[test]
    fn a_flat_frame_scores_0() {
        let flat = vec![90u8; BYTES];
        assert!(QueryTemplates::new(&scene(4)).score(&flat, false).abs() < 0.01);
        let black = Picture { width: 8, height: 8, rgb: vec![0; 192] };
        assert!(QueryTemplates::new(&black).score(&sketch(&scene(4)), false).abs() < 0.01);
    }

    #[test]
    fn a_rotated_wide_picture_scores_high_on_its_frame() {
        let frame = scene(8);
        for angle in [-4.0f32, 4.0] {
            let (sin, cos) = angle.to_radians().sin_cos();
            let mut rotated = frame.clone();
            for i in 0..320 * 180 {
                let (u, v) = ((i % 320) as f32 - 159.5, (i / 320) as f32 - 89.5);
                let (x, y) = (u * cos - v * sin + 159.5, u * sin + v * cos + 89.5);
                let at = |value: f32, size: u32| value.round().clamp(0.0, (size - 1) as f32) as u32;
                let pixel = frame.pixel(at(x, 320), at(y, 180));
                rotated.rgb[3 * i..3 * i + 3].copy_from_slice(&pixel);
            }
            let score = QueryTemplates::new(&rotated).score(&sketch(&frame), false);
            assert!(score > 0.85, "{angle}: {score}");
        }
    }

    #[test]
    fn a_rotation_by_0_equals_the_straight_part() {
        let luma = LumaSquare::of(scene(7).view(), 2 * SIDE);
        for (share, side) in [(1.0, SIDE), (1.0, 24), (0.8, SIDE)] {
            let (straight, rotated) = (luma.part([0.5, 0.5], share, side), luma.rotated(share, 0.0, 1.7, side));
            let off = straight.values.iter().zip(&rotated.values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off < 1e-3, "{share} {side}: {off}");
        }
    }

    #[test]
    fn bars_in_common_do_not_make_unrelated_contents_alike() {
        let letterboxed = |seed: u64| {
            let mut frame = scene(seed);
            let (stride, bar) = (frame.width as usize * 3, frame.height as usize / 5);
            let end = (frame.height as usize - bar) * stride;
            frame.rgb[..bar * stride].fill(4);
            frame.rgb[end..].fill(4);
            frame
        };
        for seed in 20..24 {
            let (own, other) = (letterboxed(seed), letterboxed(seed + 10));
            assert!(score(&own, &own) > 0.9, "{seed}: {}", score(&own, &own));
            assert!(score(&own, &other) < 0.5, "{seed}: {}", score(&own, &other));
        }
    }

    #[test]
    fn the_local_mean_is_the_mean_of_the_window() {
        let mut random = Random::new(9, "mean");
        let original: Vec<f32> = (0..20 * 20).map(|_| random.up_to(255) as f32).collect();
        let mut without = original.clone();
        remove_local_mean(&mut without, 20);
        for (x, y) in [(0, 0), (19, 19), (10, 10), (2, 17), (0, 9)] {
            let near = |a: usize, b: usize| a.abs_diff(b) <= BLUR;
            let window: Vec<f32> =
                (0..400).filter(|i| near(i % 20, x) && near(i / 20, y)).map(|i| original[i]).collect();
            let expected = original[y * 20 + x] - window.iter().sum::<f32>() / window.len() as f32;
            assert!((without[y * 20 + x] - expected).abs() < 1e-3, "{x} {y}");
        }
    }

    #[test]
    fn the_correlation_follows_the_formula() {
        // One template at one position, computed by hand.
        let (query, frame) = (scene(5), scene(6));
        let whole = LumaSquare::of(query.view(), 2 * SIDE).part([0.5, 0.5], 1.0, SIDE);
        let template = Template::of(&whole, SIDE, SIDE, true);
        let found = SketchPlane::of(&sketch(&frame)).best(pulp::Scalar::new(), &template);
        let mut plane: Vec<f32> = sketch(&frame).iter().map(|v| f32::from(*v)).collect();
        remove_local_mean(&mut plane, SIDE);
        let about_mean = |v: &[f32]| {
            let mean = v.iter().map(|v| f64::from(*v)).sum::<f64>() / v.len() as f64;
            v.iter().map(|v| f64::from(*v) - mean).collect::<Vec<f64>>()
        };
        let (q, f) = (about_mean(&whole.values), about_mean(&plane));
        let floor = BYTES as f64 * f64::from(FLOOR * FLOOR);
        let length = |v: &[f64]| (v.iter().map(|v| v * v).sum::<f64>() + floor).sqrt();
        let expected = q.iter().zip(&f).map(|(q, f)| q * f).sum::<f64>() / (length(&q) * length(&f));
        assert!((f64::from(found) - expected).abs() < 1e-4, "{found} for {expected}");
    }
}
