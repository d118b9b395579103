//! A picture in memory, with cropping, mirroring and resizing.

use rayon::prelude::*;

/// Packed 8-bit RGB, rows from top to bottom, no padding: `rgb.len() == width * height * 3`.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Red, green and blue of each pixel.
    pub rgb: Vec<u8>,
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picture({} x {})", self.width, self.height)
    }
}

impl Picture {
    /// A picture of these bytes. `None` if a side is 0 or the length is not `width * height * 3`.
    pub fn new(width: u32, height: u32, rgb: Vec<u8>) -> Option<Picture> {
        let bytes = u64::from(width).checked_mul(u64::from(height))?.checked_mul(3)?;
        (bytes > 0 && bytes == rgb.len() as u64).then_some(Picture { width, height, rgb })
    }

    /// Red, green and blue at column `x` and row `y`. Outside of the picture it is the nearest pixel.
    pub fn pixel(&self, x: u32, y: u32) -> [u8; 3] {
        let x = x.min(self.width.saturating_sub(1)) as usize;
        let y = y.min(self.height.saturating_sub(1)) as usize;
        let at = (y * self.width as usize + x) * 3;
        match self.rgb.get(at..at + 3) {
            Some(&[r, g, b]) => [r, g, b],
            _ => [0; 3],
        }
    }

    /// Luma of a pixel, 0 to 255: `(77 r + 150 g + 29 b) / 256`, which is Rec. 601 in integers.
    pub fn luma(&self, x: u32, y: u32) -> u8 {
        let [r, g, b] = self.pixel(x, y).map(u32::from);
        ((77 * r + 150 * g + 29 * b) >> 8) as u8
    }

    /// The mirrored picture: left and right are exchanged.
    pub fn flipped(&self) -> Picture {
        let mut rgb = Vec::with_capacity(self.rgb.len());
        for row in self.rgb.chunks_exact((self.width as usize * 3).max(1)) {
            for pixel in row.chunks_exact(3).rev() {
                rgb.extend_from_slice(pixel);
            }
        }
        Picture { rgb, ..*self }
    }

    /// The whole picture as a view.
    pub fn view(&self) -> PictureView<'_> {
        let stride = self.width as usize * 3;
        PictureView { at: [0, 0], width: self.width, height: self.height, stride, rgb: &self.rgb }
    }

    /// The part with its upper left corner at (`x`, `y`), limited to this picture. It has at least one pixel
    /// if the picture has any.
    pub fn part(&self, x: u32, y: u32, width: u32, height: u32) -> PictureView<'_> {
        let (x, y) = (x.min(self.width.saturating_sub(1)), y.min(self.height.saturating_sub(1)));
        let width = width.max(1).min(self.width - x);
        let height = height.max(1).min(self.height - y);
        let stride = self.width as usize * 3;
        let corner = (y as usize * stride + x as usize * 3).min(self.rgb.len());
        PictureView { at: [x, y], width, height, stride, rgb: &self.rgb[corner..] }
    }

    /// A copy of [`Picture::part`].
    pub fn cropped(&self, x: u32, y: u32, width: u32, height: u32) -> Picture {
        self.part(x, y, width, height).to_picture()
    }

    /// As [`Picture::cropped`], without a second picture in memory.
    pub fn into_part(mut self, x: u32, y: u32, width: u32, height: u32) -> Picture {
        let part = self.part(x, y, width, height);
        let ([left, top], width, height) = (part.at.map(|at| at as usize), part.width, part.height);
        let (stride, line) = (self.width as usize * 3, width as usize * 3);
        let rows = if self.rgb.is_empty() { 0 } else { height as usize };
        for row in 0..rows {
            let from = (top + row) * stride + left * 3;
            self.rgb.copy_within(from..from + line, row * line);
        }
        self.rgb.truncate(line * rows);
        Picture { width, height, rgb: self.rgb }
    }

    /// See [`PictureView::resize`].
    pub fn resize(&self, width: u32, height: u32) -> Picture {
        self.view().resize(width, height)
    }
}

/// A rectangular part of a picture. It borrows the pixels, because a copy of a large picture is expensive.
#[derive(Clone, Copy)]
pub struct PictureView<'a> {
    /// Position of the upper left corner in the picture.
    at: [u32; 2],
    width: u32,
    height: u32,
    /// Bytes from one row to the next.
    stride: usize,
    /// Bytes from the upper left corner on.
    rgb: &'a [u8],
}

impl<'a> From<&'a Picture> for PictureView<'a> {
    fn from(picture: &'a Picture) -> PictureView<'a> {
        picture.view()
    }
}

impl std::fmt::Debug for PictureView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PictureView({} x {})", self.width, self.height)
    }
}

/// Pixels of a source row that [`PictureView::resize`] sums at once, so that the sums of a wide picture stay
/// in the cache.
const LINE_PIXELS: usize = 1 << 12;
/// Number of pixels from which [`PictureView::resize`] uses all cores.
const PARALLEL_PIXELS: usize = 1 << 19;
/// Width from which the columns shrink first if the rows grow. Else each row of the result would take the
/// time of whole rows of the picture.
const WIDE: u32 = 1 << 14;

impl<'a> PictureView<'a> {
    /// Width in pixels.
    pub fn width(self) -> u32 {
        self.width
    }

    /// Height in pixels.
    pub fn height(self) -> u32 {
        self.height
    }

    /// Left, top, right and bottom in the picture, in pixels.
    pub fn rectangle(self) -> [u32; 4] {
        let [x, y] = self.at;
        [x, y, x + self.width, y + self.height]
    }

    /// Packed red, green and blue of row `y`.
    pub(super) fn row(self, y: usize) -> &'a [u8] {
        &self.rgb[y * self.stride..][..self.width as usize * 3]
    }

    /// A copy of the pixels.
    pub fn to_picture(self) -> Picture {
        if self.rgb.is_empty() {
            return Picture { width: self.width, height: self.height, rgb: Vec::new() };
        }
        let rows = (0..self.height as usize).map(|y| self.row(y));
        let mut rgb = Vec::with_capacity(self.width as usize * self.height as usize * 3);
        rows.for_each(|row| rgb.extend_from_slice(row));
        Picture { width: self.width, height: self.height, rgb }
    }

    /// The pixels stretched to `width` x `height`. A side that shrinks takes the exact mean of the area that
    /// each pixel covers. A side that grows is interpolated linearly between pixel centres. The result is the
    /// same on every machine. A side of 0 counts as 1.
    ///
    /// Time and memory depend on the number of pixels, whatever the shape.
    pub fn resize(self, width: u32, height: u32) -> Picture {
        let (width, height) = (width.max(1), height.max(1));
        if self.rgb.is_empty() {
            return Picture { width, height, rgb: vec![0; width as usize * height as usize * 3] };
        }
        if (width, height) == (self.width, self.height) {
            return self.to_picture();
        }
        if self.width > WIDE && height > self.height {
            return self.resize(width, self.height).resize(width, height);
        }
        let columns: Vec<ResizeTaps> = (0..width).map(|i| ResizeTaps::new(self.width, width, i)).collect();
        let mut rgb = vec![0; width as usize * height as usize * 3];
        let mut left = 0;
        while left < columns.len() {
            let first = columns[left].first;
            let fitting = |taps: &&ResizeTaps| taps.end() <= first + LINE_PIXELS;
            let count = columns[left..].iter().take_while(fitting).count().max(1);
            let group = &columns[left..left + count];
            let end = group.last().map_or(first, ResizeTaps::end);
            let row = |line: &mut Vec<f32>, (i, out): (usize, &mut [u8])| {
                line.clear();
                line.resize((end - first) * 3, 0.0);
                for (y, weight) in ResizeTaps::new(self.height, height, i as u32).iter() {
                    for (sum, &value) in line.iter_mut().zip(&self.row(y)[first * 3..end * 3]) {
                        *sum += weight * f32::from(value);
                    }
                }
                for (column, out) in group.iter().zip(out[left * 3..].chunks_exact_mut(3)) {
                    let mut sum = [0.0_f32; 3];
                    for (x, weight) in column.iter() {
                        for (sum, value) in sum.iter_mut().zip(&line[(x - first) * 3..][..3]) {
                            *sum += weight * value;
                        }
                    }
                    out.copy_from_slice(&sum.map(|v| (v + 0.5) as u8));
                }
            };
            let stride = width as usize * 3;
            if self.width as usize * self.height as usize >= PARALLEL_PIXELS {
                rgb.par_chunks_exact_mut(stride).enumerate().for_each_init(Vec::new, row);
            } else {
                let mut line = Vec::new();
                rgb.chunks_exact_mut(stride).enumerate().for_each(|out| row(&mut line, out));
            }
            left += count;
        }
        Picture { width, height, rgb }
    }
}

/// The source pixels along a side that one target pixel consists of, and their weights, whose sum is 1. All
/// pixels but the first and the last have the same weight, so that no table is needed.
struct ResizeTaps {
    first: usize,
    count: usize,
    /// Last pixel of the side.
    limit: usize,
    /// Weights of the first pixel, of those between, and of the last one.
    weights: [f32; 3],
}

impl ResizeTaps {
    /// For target pixel `i` of `to`, from a side of `from` pixels.
    fn new(from: u32, to: u32, i: u32) -> ResizeTaps {
        let limit = from.saturating_sub(1) as usize;
        if to < from {
            // In units of 1/to of a source pixel, pixel i covers [i * from, (i + 1) * from) and source pixel
            // p covers [p * to, (p + 1) * to). A target pixel covers at least two source pixels.
            let [i, unit, length] = [i, to, from].map(u64::from);
            let (start, end) = (i * length, (i + 1) * length);
            let (first, last) = (start / unit, (end - 1) / unit);
            let covered = [(first + 1) * unit - start, unit, end - last * unit];
            let weights = covered.map(|covered| covered as f32 / from as f32);
            ResizeTaps { first: first as usize, count: (last - first + 1) as usize, limit, weights }
        } else {
            let centre = ((i as f32 + 0.5) * from as f32 / to as f32 - 0.5).max(0.0);
            let first = (centre as usize).min(limit);
            let share = (centre - first as f32).clamp(0.0, 1.0);
            ResizeTaps { first, count: if share == 0.0 { 1 } else { 2 }, limit, weights: [1.0 - share, 0.0, share] }
        }
    }

    /// Pixel after the last one.
    fn end(&self) -> usize {
        (self.first + self.count).min(self.limit + 1)
    }

    fn iter(&self) -> impl Iterator<Item = (usize, f32)> {
        let ResizeTaps { first, count, limit, weights: [start, middle, end] } = *self;
        (0..count).map(move |i| {
            let weight = if i == 0 {
                start
            } else if i + 1 == count {
                end
            } else {
                middle
            };
            ((first + i).min(limit), weight)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(width: u32, height: u32) -> Picture {
        let rgb = (0..width * height * 3).map(|i| (i * 7 % 251) as u8).collect();
        Picture::new(width, height, rgb).unwrap()
    }

    #[test]
    fn new_rejects_wrong_lengths() {
        assert!(Picture::new(2, 2, vec![0; 11]).is_none());
        assert!(Picture::new(0, 2, vec![]).is_none());
        assert!(Picture::new(u32::MAX, u32::MAX, vec![0; 3]).is_none());
    }

    #[test]
    fn mirroring_twice_restores_the_picture() {
        let p = ramp(5, 3);
        assert_eq!(p.flipped().pixel(0, 1), p.pixel(4, 1));
        assert_eq!(p.flipped().flipped(), p);
    }

    #[test]
    fn a_crop_stays_inside_the_picture() {
        let p = ramp(5, 3);
        assert_eq!(p.cropped(1, 1, 2, 2).pixel(1, 1), p.pixel(2, 2));
        let corner = p.cropped(4, u32::MAX, 2, 0);
        assert_eq!((corner.width, corner.height, corner.pixel(0, 0)), (1, 1, p.pixel(4, 2)));
    }

    #[test]
    fn shrinking_averages_areas() {
        let p = Picture::new(3, 1, vec![0, 0, 0, 90, 90, 90, 240, 240, 240]).unwrap();
        assert_eq!(p.resize(1, 1).pixel(0, 0), [110; 3]);
        // Each of two pixels covers one and a half: (0 + 45) / 1.5 and (45 + 240) / 1.5.
        assert_eq!(p.resize(2, 1).rgb, [30, 30, 30, 190, 190, 190]);
    }

    /// The definition of the resize, with a table of all weights and without groups of columns.
    fn by_definition(p: &Picture, width: u32, height: u32) -> Vec<u8> {
        let table = |from: u32, to: u32| -> Vec<Vec<(usize, f32)>> {
            let of = |i: u64| -> Vec<(usize, f32)> {
                let (start, end, unit) = (i * u64::from(from), (i + 1) * u64::from(from), u64::from(to));
                let covered = |p: u64| end.min((p + 1) * unit) - start.max(p * unit);
                (start / unit..=(end - 1) / unit).map(|p| (p as usize, covered(p) as f32 / from as f32)).collect()
            };
            (0..u64::from(to)).map(of).collect()
        };
        let mut out = Vec::new();
        for row in table(p.height, height) {
            let mut line = vec![0.0_f32; p.width as usize * 3];
            for (y, weight) in row {
                let source = &p.rgb[y * line.len()..][..line.len()];
                line.iter_mut().zip(source).for_each(|(sum, v)| *sum += weight * f32::from(*v));
            }
            for column in table(p.width, width) {
                let mut sum = [0.0_f32; 3];
                for (x, weight) in column {
                    sum.iter_mut().zip(&line[x * 3..]).for_each(|(sum, v)| *sum += weight * v);
                }
                out.extend(sum.map(|v| (v + 0.5) as u8));
            }
        }
        out
    }

    #[test]
    fn long_pictures_shrink_by_the_same_definition_as_others() {
        for (from, to) in [([70_000, 3], [4, 2]), ([3, 70_000], [2, 5]), ([640, 360], [64, 63]), ([129, 65], [64, 64])]
        {
            let p = ramp(from[0], from[1]);
            assert_eq!(p.resize(to[0], to[1]).rgb, by_definition(&p, to[0], to[1]), "{from:?}");
        }
    }

    #[test]
    fn a_part_resizes_as_its_copy_does() {
        let p = ramp(50, 40);
        let part = p.part(7, 5, 30, 21);
        assert_eq!((part.width(), part.height()), (30, 21));
        assert_eq!(part.to_picture(), p.cropped(7, 5, 30, 21));
        for (w, h) in [(8, 8), (30, 21), (64, 3)] {
            assert_eq!(part.resize(w, h), part.to_picture().resize(w, h), "{w} x {h}");
        }
    }

    #[test]
    fn a_plain_picture_stays_plain_at_any_size() {
        let p = Picture::new(7, 5, vec![201; 105]).unwrap();
        for (w, h) in [(1, 1), (3, 4), (7, 50), (64, 2), (0, 9)] {
            assert!(p.resize(w, h).rgb.iter().all(|&v| v == 201), "{w} x {h}");
        }
    }
}
