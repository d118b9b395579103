//! Quadrilaterals of a picture, and their pixels.

use crate::media::{Picture, PictureView};

/// A point (x, y) in pixels of the query picture.
pub(super) type Point = [f32; 2];

/// Corners of a part of a picture. The first corner is where the upper left corner of the frame would be.
pub(super) type Quad = [Point; 4];

/// A projective map from the unit square to a quadrilateral.
#[derive(Debug, Clone, Copy)]
pub(super) struct Homography {
    a: Point,
    b: Point,
    c: Point,
    /// Perspective: the denominator is `1 + g u + h v`.
    gh: [f32; 2],
}

impl Homography {
    /// Maps (0, 0), (1, 0), (1, 1), (0, 1) to the corners (Heckbert, "Fundamentals of Texture Mapping",
    /// 1989).
    pub(super) fn to([p0, p1, p2, p3]: Quad) -> Homography {
        let sum = |i: usize| p0[i] - p1[i] + p2[i] - p3[i];
        let (sx, sy) = (sum(0), sum(1));
        let (dx1, dx2) = (p1[0] - p2[0], p3[0] - p2[0]);
        let (dy1, dy2) = (p1[1] - p2[1], p3[1] - p2[1]);
        let det = dx1 * dy2 - dx2 * dy1;
        let (g, h) = match det.abs() > 1e-6 {
            true => ((sx * dy2 - dx2 * sy) / det, (dx1 * sy - sx * dy1) / det),
            false => (0.0, 0.0),
        };
        let a = [p1[0] - p0[0] + g * p1[0], p1[1] - p0[1] + g * p1[1]];
        let b = [p3[0] - p0[0] + h * p3[0], p3[1] - p0[1] + h * p3[1]];
        Homography { a, b, c: p0, gh: [g, h] }
    }

    /// The point of a position in the unit square, which may lie outside of it.
    #[inline(always)]
    pub(super) fn at(&self, u: f32, v: f32) -> Point {
        let scale = 1.0 / (1.0 + self.gh[0] * u + self.gh[1] * v);
        let along = |i: usize| (self.a[i] * u + self.b[i] * v + self.c[i]) * scale;
        [along(0), along(1)]
    }

    /// The corners.
    pub(super) fn quad(&self) -> Quad {
        [self.at(0.0, 0.0), self.at(1.0, 0.0), self.at(1.0, 1.0), self.at(0.0, 1.0)]
    }
}

/// The area of a quadrilateral in square pixels; negative if its corners are anticlockwise.
pub(super) fn area(quad: &Quad) -> f32 {
    let cross = |i: usize| {
        let (p, q) = (quad[i], quad[(i + 1) % 4]);
        p[0] * q[1] - p[1] * q[0]
    };
    (0..4).map(cross).sum::<f32>() / 2.0
}

/// One size of a picture: red, green, blue and luma.
struct Level {
    width: usize,
    height: usize,
    /// Size of a pixel of this level in pixels of the picture.
    scale: [f32; 2],
    /// The inverse of the scale.
    density: [f32; 2],
    values: Vec<[f32; 4]>,
    luma: Vec<f32>,
}

impl Level {
    fn new(width: usize, height: usize, scale: [f32; 2], values: Vec<[f32; 4]>) -> Level {
        let luma = values.iter().map(|value| value[3]).collect();
        Level { width, height, scale, density: scale.map(|scale| 1.0 / scale), values, luma }
    }

    fn of(picture: &Picture, scale: [f32; 2]) -> Level {
        let values = picture.rgb.chunks_exact(3).map(|pixel| {
            let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(f32::from);
            [r, g, b, 0.299 * r + 0.587 * g + 0.114 * b]
        });
        Level::new(picture.width as usize, picture.height as usize, scale, values.collect())
    }

    /// Half the size: means of 2 x 2 pixels.
    fn halved(&self) -> Level {
        let (width, height) = ((self.width / 2).max(1), (self.height / 2).max(1));
        let mut values = Vec::with_capacity(width * height);
        for y in 0..height {
            let rows = [2 * y, (2 * y + 1).min(self.height - 1)].map(|y| &self.values[y * self.width..][..self.width]);
            for x in 0..width {
                let (left, right) = (2 * x, (2 * x + 1).min(self.width - 1));
                let sum = |i: usize| rows[0][left][i] + rows[0][right][i] + rows[1][left][i] + rows[1][right][i];
                values.push([0, 1, 2, 3].map(|i| sum(i) / 4.0));
            }
        }
        // An odd row or column is left out, so the scale stays exact. A side of one pixel stays as it is.
        let factor = [self.width, self.height].map(|side| if side > 1 { 2.0 } else { 1.0 });
        let scale = [self.scale[0] * factor[0], self.scale[1] * factor[1]];
        Level::new(width, height, scale, values)
    }

    /// The four pixels around a position in pixels of the picture, and the weights of the right and the lower
    /// ones. The edge continues outside.
    #[inline(always)]
    fn around(&self, [x, y]: Point) -> ([usize; 4], f32, f32) {
        let clamp = |at: f32, density: f32, side: usize| (at * density - 0.5).max(0.0).min((side - 1) as f32);
        let (x, y) = (clamp(x, self.density[0], self.width), clamp(y, self.density[1], self.height));
        let (x0, y0) = (x as usize, y as usize);
        let (x1, y1) = ((x0 + 1).min(self.width - 1), (y0 + 1).min(self.height - 1));
        let (above, below) = (y0 * self.width, y1 * self.width);
        ([above + x0, above + x1, below + x0, below + x1], x - x0 as f32, y - y0 as f32)
    }

    /// Red, green, blue and luma at a position, interpolated linearly.
    #[inline(always)]
    fn at(&self, point: Point) -> [f32; 4] {
        let (corners, fx, fy) = self.around(point);
        let [a, b, c, d] = corners.map(|i| self.values[i]);
        let mut out = [0.0; 4];
        for i in 0..4 {
            let (above, below) = (a[i] + (b[i] - a[i]) * fx, c[i] + (d[i] - c[i]) * fx);
            out[i] = above + (below - above) * fy;
        }
        out
    }

    /// Luma at a position, interpolated linearly.
    #[inline(always)]
    fn luma_at(&self, point: Point) -> f32 {
        let (corners, fx, fy) = self.around(point);
        let [a, b, c, d] = corners.map(|i| self.luma[i]);
        let (above, below) = (a + (b - a) * fx, c + (d - c) * fx);
        above + (below - above) * fy
    }
}

/// A picture in several sizes, from which warped parts are sampled.
pub(super) struct Pyramid {
    width: f32,
    height: f32,
    levels: Vec<Level>,
}

/// Longest side of the largest level.
const LONGEST: u32 = 640;
/// Least longest side of the smallest level.
const SHORTEST: usize = 40;

impl Pyramid {
    pub(super) fn of(picture: PictureView<'_>) -> Pyramid {
        let (width, height) = (picture.width(), picture.height());
        let shrink = (LONGEST as f32 / width.max(height) as f32).min(1.0);
        let side = |side: u32| ((side as f32 * shrink).round() as u32).max(1);
        let small = picture.resize(side(width), side(height));
        let scale = [width as f32 / small.width as f32, height as f32 / small.height as f32];
        let mut levels = vec![Level::of(&small, scale)];
        while let Some(last) = levels.last().filter(|last| last.width.max(last.height) >= 2 * SHORTEST) {
            levels.push(last.halved());
        }
        Pyramid { width: width as f32, height: height as f32, levels }
    }

    /// Width and height of the picture.
    pub(super) fn size(&self) -> [f32; 2] {
        [self.width, self.height]
    }

    /// The level whose longest side is at most `longest`: its width and height, the size of its pixels, and
    /// red, green, blue and luma of each, row after row.
    pub(super) fn colours(&self, longest: usize) -> (usize, usize, [f32; 2], &[[f32; 4]]) {
        let fits = |level: &&Level| level.width.max(level.height) <= longest;
        let level = self.levels.iter().find(fits).unwrap_or(&self.levels[self.levels.len() - 1]);
        (level.width, level.height, level.scale, &level.values)
    }

    /// The level on which `cells` samples across a part are about one pixel apart.
    fn level_for(&self, map: &Homography, cells: usize) -> &Level {
        let quad = map.quad();
        let cell = (area(&quad).abs().max(1.0)).sqrt() / cells as f32;
        let enough = |level: &&Level| (level.scale[0] * level.scale[1]).sqrt() <= cell * 1.1;
        self.levels.iter().rfind(enough).unwrap_or(&self.levels[0])
    }

    /// A part stretched to `side` x `side` pixels.
    pub(super) fn part(&self, quad: Quad, side: usize) -> Picture {
        let map = Homography::to(quad);
        let level = self.level_for(&map, side);
        let mut rgb = Vec::with_capacity(side * side * 3);
        for y in 0..side {
            for x in 0..side {
                let [r, g, b, _] = level.at(map.at((x as f32 + 0.5) / side as f32, (y as f32 + 0.5) / side as f32));
                rgb.extend([r, g, b].map(|v| (v + 0.5) as u8));
            }
        }
        Picture { width: side as u32, height: side as u32, rgb }
    }

    /// Luma of a part in `side` x `side` cells. A cell outside of the picture is marked in `inside`.
    pub(super) fn luma(&self, map: &Homography, side: usize, values: &mut Vec<f32>, inside: &mut Vec<bool>) {
        let level = self.level_for(map, side);
        values.clear();
        inside.clear();
        for y in 0..side {
            for x in 0..side {
                let point = map.at((x as f32 + 0.5) / side as f32, (y as f32 + 0.5) / side as f32);
                values.push(level.luma_at(point));
                inside.push((0.0..=self.width).contains(&point[0]) && (0.0..=self.height).contains(&point[1]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A picture whose red is the column and whose green is the row.
    fn ramp(width: u32, height: u32) -> Picture {
        let rgb = (0..width * height).flat_map(|i| [(i % width) as u8, (i / width) as u8, 0]).collect();
        Picture { width, height, rgb }
    }

    #[test]
    fn a_part_holds_the_pixels_between_its_corners() {
        let picture = ramp(200, 120);
        let pyramid = Pyramid::of(picture.view());
        // The frame's upper left corner is at the upper right of the part: it is rotated by 90 degrees.
        let part = pyramid.part([[140.0, 20.0], [140.0, 84.0], [76.0, 84.0], [76.0, 20.0]], 64);
        for (x, y) in [(0, 0), (10, 50), (63, 63)] {
            let [red, green, _] = part.pixel(x, y);
            assert!(
                u32::from(red).abs_diff(139 - y) <= 1 && u32::from(green).abs_diff(20 + x) <= 1,
                "{x} {y}: {red} {green}"
            );
        }
    }

    #[test]
    fn cells_outside_of_the_picture_are_marked() {
        let pyramid = Pyramid::of(ramp(100, 100).view());
        let (mut luma, mut inside) = (Vec::new(), Vec::new());
        let map = Homography::to([[-100.0, 0.0], [100.0, 0.0], [100.0, 100.0], [-100.0, 100.0]]);
        pyramid.luma(&map, 32, &mut luma, &mut inside);
        assert!(inside.chunks_exact(32).all(|row| !row[15] && row[16]), "{inside:?}");
    }

    proptest! {
        #[test]
        fn a_homography_meets_the_corners(moves in prop::collection::vec(-20.0f32..20.0, 8)) {
            let plain: Quad = [[0.0, 0.0], [160.0, 0.0], [160.0, 90.0], [0.0, 90.0]];
            let quad = [0, 1, 2, 3].map(|i| [plain[i][0] + moves[2 * i], plain[i][1] + moves[2 * i + 1]]);
            for (found, expected) in Homography::to(quad).quad().iter().zip(&quad) {
                prop_assert!((found[0] - expected[0]).hypot(found[1] - expected[1]) < 0.05, "{found:?} {expected:?}");
            }
        }

        #[test]
        fn any_part_of_any_picture_has_pixels(
            (width, height) in (1u32..50, 1u32..50),
            corners in prop::collection::vec(-100.0f32..100.0, 8),
        ) {
            let pyramid = Pyramid::of(ramp(width, height).view());
            let quad = [0, 1, 2, 3].map(|i| [corners[2 * i], corners[2 * i + 1]]);
            prop_assert_eq!(pyramid.part(quad, 16).rgb.len(), 16 * 16 * 3);
        }
    }
}
