//! The second stage: whether a picture, or a part of it, lies on a frame.
//!
//! Of each row a sketch is kept: the luma of its middle frame, 32 x 32, stretched, 8 bits. A query is laid over it in every way that a picture on the web may have been made of the
//! frame: whole, cropped at any place, turned a little, surrounded by something, mirrored. The score is the highest normalised cross-correlation of the two, both without their
//! local mean, so that brightness, contrast and slow shading say nothing:
//!
//! `ncc = Σ q f / √(Σ q² (Σ f² + floor))`, sums over the overlap, `f` about its mean there.

use crate::media::Picture;

/// Side of a sketch.
pub const SIDE: usize = 32;
/// Bytes of a sketch.
pub const BYTES: usize = SIDE * SIDE;

/// Half the side of the window whose mean is taken away.
const BLUR: usize = 3;
/// Deviation, in grey levels, that counts as flat.
const FLOOR: f32 = 1.5;

/// Shares of the frame's sides that a cropped query may show.
const CROPS: [f32; 6] = [0.95, 0.9, 0.85, 0.8, 0.75, 0.7];
/// Shares of the query's sides that the frame may fill.
const INSETS: [f32; 4] = [0.93, 0.86, 0.79, 0.72];
/// Degrees by which a query may be turned.
const ANGLES: [f32; 4] = [-4.0, -2.0, 2.0, 4.0];
/// Share of a turned query that is compared: without its corners.
const TURNED: f32 = 0.86;

/// The sketch of a frame of any size.
pub fn sketch(picture: &Picture) -> Vec<u8> {
    let small = picture.resize(SIDE as u32, SIDE as u32);
    (0..BYTES).map(|i| small.luma((i % SIDE) as u32, (i / SIDE) as u32)).collect()
}

/// A part of the query in one size: zero mean, length 1.
struct Template {
    width: usize,
    height: usize,
    /// Whether it lies at the frame's upper left corner only, or anywhere.
    fixed: bool,
    /// Rows of [`SIDE`] numbers, zero beyond `width`.
    values: Vec<f32>,
}

/// A picture as it is laid over sketches.
pub struct Query {
    /// As it is, and mirrored.
    templates: [Vec<Template>; 2],
}

impl Query {
    /// All ways in which a picture may lie on a frame.
    pub fn new(picture: &Picture) -> Query {
        let large = Grey::of(picture, 2 * SIDE);
        let whole = [0.5, 0.5];
        let templates = [large.clone(), large.mirrored()].map(|grey| {
            let mut templates = Vec::new();
            let full = grey.part(whole, 1.0, 0.0, SIDE);
            // Words may stand over the lower fifth.
            templates.push(Template::of(&full, SIDE, SIDE * 4 / 5, true));
            templates.push(Template::of(&full, SIDE, SIDE, true));
            for share in CROPS {
                let side = (share * SIDE as f32).round() as usize;
                templates.push(Template::of(&grey.part(whole, 1.0, 0.0, side), side, side, false));
            }
            for share in INSETS {
                let room = (1.0 - share) / 2.0 * 0.6;
                for middle in (0..9).map(|i| [(i % 3) as f32 - 1.0, (i / 3) as f32 - 1.0]) {
                    let part = grey.part(middle.map(|d| 0.5 + d * room), share, 0.0, SIDE);
                    templates.push(Template::of(&part, SIDE, SIDE, true));
                }
            }
            let side = (TURNED * SIDE as f32).round() as usize;
            for angle in ANGLES {
                templates.push(Template::of(&grey.part(whole, TURNED, angle, side), side, side, false));
            }
            templates
        });
        Query { templates }
    }

    /// The highest correlation with a sketch, -1 to 1: of the picture as it is, or mirrored.
    ///
    /// # Panics
    /// If it has not [`BYTES`].
    pub fn score(&self, sketch: &[u8], mirrored: bool) -> f32 {
        let plane = Plane::of(sketch);
        let templates = &self.templates[usize::from(mirrored)];
        pulp::Arch::new().dispatch(|| templates.iter().map(|t| plane.best(t)).fold(-1.0, f32::max))
    }
}

impl Template {
    /// The upper left part of a square that lost its local mean.
    fn of(square: &Grey, width: usize, height: usize, fixed: bool) -> Template {
        let mut values = vec![0f32; SIDE * height];
        let rows = square.values.chunks_exact(square.side);
        values.chunks_exact_mut(SIDE).zip(rows).for_each(|(out, row)| out[..width].copy_from_slice(&row[..width]));
        let cells = || values.chunks_exact(SIDE).flat_map(|row| &row[..width]);
        let count = (width * height) as f32;
        let mean = cells().sum::<f32>() / count;
        let squares = cells().map(|v| (v - mean) * (v - mean)).sum::<f32>();
        let norm = (squares + count * FLOOR * FLOOR).sqrt();
        values.chunks_exact_mut(SIDE).for_each(|row| row[..width].iter_mut().for_each(|v| *v = (*v - mean) / norm));
        Template { width, height, fixed, values }
    }
}

/// Luma in a square.
#[derive(Clone)]
struct Grey {
    side: usize,
    values: Vec<f32>,
}

impl Grey {
    fn of(picture: &Picture, side: usize) -> Grey {
        let small = picture.resize(side as u32, side as u32);
        let luma = |i: usize| f32::from(small.luma((i % side) as u32, (i / side) as u32));
        Grey { side, values: (0..side * side).map(luma).collect() }
    }

    fn mirrored(&self) -> Grey {
        let values = self.values.chunks_exact(self.side).flat_map(|row| row.iter().rev()).copied().collect();
        Grey { side: self.side, values }
    }

    /// Between which two columns (or rows) a place lies, and its share of the second.
    fn between(&self, place: f32) -> (usize, usize, f32) {
        let place = place.clamp(0.0, (self.side - 1) as f32);
        let first = place as usize;
        (first, (first + 1).min(self.side - 1), place - first as f32)
    }

    fn at(&self, (x0, x1, fx): (usize, usize, f32), (y0, y1, fy): (usize, usize, f32)) -> f32 {
        let value = |x: usize, y: usize| self.values[y * self.side + x];
        (value(x0, y0) * (1.0 - fx) + value(x1, y0) * fx) * (1.0 - fy)
            + (value(x0, y1) * (1.0 - fx) + value(x1, y1) * fx) * fy
    }

    /// The part around `middle` (in shares of the sides) of `share` of the sides, turned by `angle`, in `side` x `side`, without its local mean.
    fn part(&self, middle: [f32; 2], share: f32, angle: f32, side: usize) -> Grey {
        let (sin, cos) = angle.to_radians().sin_cos();
        let full = self.side as f32;
        let step = share * full / side as f32;
        let mut values = Vec::with_capacity(side * side);
        // Four samples a cell: a part may be half as fine as the picture.
        let off = |cell: usize, half: usize| cell as f32 + [0.25, 0.75][half] - side as f32 / 2.0;
        if angle == 0.0 {
            // Columns and rows do not depend on each other: each is looked up once.
            let places = |middle: f32| -> Vec<[(usize, usize, f32); 2]> {
                let place = |cell, half| self.between(middle * full + off(cell, half) * step - 0.5);
                (0..side).map(|cell| [place(cell, 0), place(cell, 1)]).collect()
            };
            let (columns, rows) = (places(middle[0]), places(middle[1]));
            for [above, below] in rows {
                for [left, right] in &columns {
                    let sum =
                        self.at(*left, above) + self.at(*right, above) + self.at(*left, below) + self.at(*right, below);
                    values.push(sum / 4.0);
                }
            }
        } else {
            for row in 0..side {
                for column in 0..side {
                    let mut sum = 0.0;
                    for (oy, ox) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                        let (u, v) = (off(column, ox), off(row, oy));
                        let (x, y) = ((u * cos - v * sin) * step, (u * sin + v * cos) * step);
                        let x = self.between(middle[0] * full + x - 0.5);
                        sum += self.at(x, self.between(middle[1] * full + y - 0.5));
                    }
                    values.push(sum / 4.0);
                }
            }
        }
        without_local_mean(&mut values, side);
        Grey { side, values }
    }
}

/// A frame's sketch without its local mean, and the sums that windows need.
struct Plane {
    /// [`SIDE`] rows of twice as many numbers, zero on the right.
    values: Vec<f32>,
    /// Sums of the values and of their squares, above and left of each corner.
    sums: Vec<(f64, f64)>,
}

impl Plane {
    fn of(sketch: &[u8]) -> Plane {
        assert_eq!(sketch.len(), BYTES, "a sketch");
        let mut square: Vec<f32> = sketch.iter().map(|v| f32::from(*v)).collect();
        without_local_mean(&mut square, SIDE);
        let mut values = vec![0f32; 2 * BYTES];
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
        Plane { values, sums }
    }

    /// `Σ (f - mean)²` of a window.
    fn spread(&self, x: usize, y: usize, template: &Template) -> f32 {
        let at = |x: usize, y: usize| self.sums[y * (SIDE + 1) + x];
        let (x1, y1) = (x + template.width, y + template.height);
        let [a, b, c, d] = [at(x1, y1), at(x, y1), at(x1, y), at(x, y)];
        let (sum, squares) = (a.0 - b.0 - c.0 + d.0, a.1 - b.1 - c.1 + d.1);
        (squares - sum * sum / (template.width * template.height) as f64).max(0.0) as f32
    }

    #[inline(always)]
    fn best(&self, template: &Template) -> f32 {
        let floor = (template.width * template.height) as f32 * FLOOR * FLOOR;
        let (right, down) = match template.fixed {
            true => (0, 0),
            false => (SIDE - template.width, SIDE - template.height),
        };
        let mut best = -1.0f32;
        for y in 0..=down {
            for x in 0..=right {
                // Lanes of their own, for sums that the compiler may not reorder.
                let mut sums = [0f32; SIDE];
                for (row, wanted) in template.values.chunks_exact(SIDE).enumerate() {
                    let found = &self.values[2 * (y + row) * SIDE + x..][..SIDE];
                    (0..SIDE).for_each(|i| sums[i] += found[i] * wanted[i]);
                }
                let product: f32 = sums.iter().sum();
                best = best.max(product / (self.spread(x, y, template) + floor).sqrt());
            }
        }
        best
    }
}

/// Takes the mean of the window around each value away.
fn without_local_mean(values: &mut [f32], side: usize) {
    let mut sums = vec![0f32; (side + 1) * (side + 1)];
    for y in 0..side {
        let mut row = 0.0;
        for x in 0..side {
            row += values[y * side + x];
            sums[(y + 1) * (side + 1) + x + 1] = sums[y * (side + 1) + x + 1] + row;
        }
    }
    for y in 0..side {
        for x in 0..side {
            let (y0, y1) = (y.saturating_sub(BLUR), (y + BLUR + 1).min(side));
            let (x0, x1) = (x.saturating_sub(BLUR), (x + BLUR + 1).min(side));
            let at = |y: usize, x: usize| sums[y * (side + 1) + x];
            let sum = at(y1, x1) - at(y0, x1) - at(y1, x0) + at(y0, x0);
            values[y * side + x] -= sum / ((y1 - y0) * (x1 - x0)) as f32;
        }
    }
}
