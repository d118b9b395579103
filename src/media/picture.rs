//! A picture in memory, with cropping, mirroring and resizing.

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

    /// The part with its upper left corner at (`x`, `y`), limited to this picture. It has at least one pixel
    /// if the picture has any.
    pub fn cropped(&self, x: u32, y: u32, width: u32, height: u32) -> Picture {
        let (x, y) = (x.min(self.width.saturating_sub(1)), y.min(self.height.saturating_sub(1)));
        let width = width.max(1).min(self.width - x);
        let height = height.max(1).min(self.height - y);
        let (stride, left, bytes) = (self.width as usize * 3, x as usize * 3, width as usize * 3);
        let rows = self.rgb.chunks_exact(stride.max(1)).skip(y as usize).take(height as usize);
        let rgb = rows.flat_map(|row| &row[left..left + bytes]).copied().collect();
        Picture { width, height, rgb }
    }

    /// The picture stretched to `width` x `height`. A side that shrinks takes the exact mean of the area that
    /// each pixel covers. A side that grows is interpolated linearly between pixel centres. The result is the
    /// same on every machine. A side of 0 counts as 1.
    pub fn resize(&self, width: u32, height: u32) -> Picture {
        let (width, height) = (width.max(1), height.max(1));
        if (width, height) == (self.width, self.height) || self.rgb.is_empty() {
            let rgb =
                if self.rgb.is_empty() { vec![0; width as usize * height as usize * 3] } else { self.rgb.clone() };
            return Picture { width, height, rgb };
        }
        let columns = taps(self.width, width);
        let rows = taps(self.height, height);
        let stride = self.width as usize * 3;
        let mut out = Vec::with_capacity(width as usize * height as usize * 3);
        let mut line = vec![0.0_f32; stride];
        for row in &rows {
            line.fill(0.0);
            for &(y, weight) in row {
                for (sum, &value) in line.iter_mut().zip(&self.rgb[y * stride..(y + 1) * stride]) {
                    *sum += weight * f32::from(value);
                }
            }
            for column in &columns {
                let mut sum = [0.0_f32; 3];
                for &(x, weight) in column {
                    for (sum, value) in sum.iter_mut().zip(&line[x * 3..x * 3 + 3]) {
                        *sum += weight * value;
                    }
                }
                out.extend(sum.map(|v| (v + 0.5) as u8));
            }
        }
        Picture { width, height, rgb: out }
    }
}

/// For each of `to` pixels along a side: the source pixels (of `from`) and their weights, whose sum is 1.
fn taps(from: u32, to: u32) -> Vec<Vec<(usize, f32)>> {
    let last = from.saturating_sub(1) as usize;
    (0..u64::from(to))
        .map(|i| {
            if to < from {
                // In units of 1/to of a source pixel, pixel i covers [i * from, (i + 1) * from) and source
                // pixel p covers [p * to, (p + 1) * to).
                let (start, end, unit) = (i * u64::from(from), (i + 1) * u64::from(from), u64::from(to));
                (start / unit..=(end - 1) / unit)
                    .map(|p| {
                        let covered = end.min((p + 1) * unit) - start.max(p * unit);
                        (p as usize, covered as f32 / from as f32)
                    })
                    .collect()
            } else {
                let centre = ((i as f32 + 0.5) * from as f32 / to as f32 - 0.5).max(0.0);
                let low = (centre as usize).min(last);
                let share = (centre - low as f32).clamp(0.0, 1.0);
                vec![(low, 1.0 - share), ((low + 1).min(last), share)]
            }
        })
        .collect()
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

    #[test]
    fn a_plain_picture_stays_plain_at_any_size() {
        let p = Picture::new(7, 5, vec![201; 105]).unwrap();
        for (w, h) in [(1, 1), (3, 4), (7, 50), (64, 2), (0, 9)] {
            assert!(p.resize(w, h).rgb.iter().all(|&v| v == 201), "{w} x {h}");
        }
    }
}
