//! Removes plain black borders.

use super::{Picture, PictureView};

/// Luma up to which a pixel counts as black. JPEG noise around 16 stays below.
const BLACK: u32 = 28;
/// Largest share of brighter pixels in a border line.
const NOISE: f32 = 0.02;
/// The rest must keep this share of each side, else the picture is merely dark.
const LEAST_SIDE: f32 = 0.3;

/// The picture without plain black bars at its sides. `None` if it has no bars or is dark as a whole.
pub fn trim_borders(picture: &Picture) -> Option<PictureView<'_>> {
    let (width, height) = (picture.width as usize, picture.height as usize);
    // Most pictures have no bars, which the four outermost lines show.
    let count = |pixels: &mut dyn Iterator<Item = &[u8]>| pixels.filter(|pixel| bright(pixel)).count() as u32;
    let line = |y: usize| count(&mut picture.rgb[y * width * 3..(y + 1) * width * 3].chunks_exact(3));
    let column = |x: usize| count(&mut picture.rgb.chunks_exact(3).skip(x).step_by(width));
    if width == 0 || height == 0 {
        return None;
    }
    let has_content = |n: u32, length: usize| content(&[n], length).is_some();
    if [0, height - 1].into_iter().all(|y| has_content(line(y), width))
        && [0, width - 1].into_iter().all(|x| has_content(column(x), height))
    {
        return None;
    }
    let mut bright_in_row = vec![0u32; height];
    let mut bright_in_column = vec![0u32; width];
    for (y, row) in picture.rgb.chunks_exact(width * 3).enumerate() {
        let mut in_row = 0;
        for (pixel, in_column) in row.chunks_exact(3).zip(&mut bright_in_column) {
            let bright = u32::from(bright(pixel));
            in_row += bright;
            *in_column += bright;
        }
        bright_in_row[y] = in_row;
    }
    let (top, bottom) = content(&bright_in_row, width)?;
    let (left, right) = content(&bright_in_column, bottom - top)?;
    let (w, h) = (right - left, bottom - top);
    if (w, h) == (width, height) || (w as f32) < LEAST_SIDE * width as f32 || (h as f32) < LEAST_SIDE * height as f32 {
        return None;
    }
    Some(picture.part(left as u32, top as u32, w as u32, h as u32))
}

fn bright(pixel: &[u8]) -> bool {
    299 * u32::from(pixel[0]) + 587 * u32::from(pixel[1]) + 114 * u32::from(pixel[2]) > BLACK * 1000
}

/// The first line that is not border, and the line after the last.
fn content(bright: &[u32], length: usize) -> Option<(usize, usize)> {
    let counts = |n: &u32| *n as f32 > NOISE * length as f32;
    let first = bright.iter().position(counts)?;
    let last = bright.iter().rposition(counts)?;
    Some((first, last + 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn boxed(left: u32, top: u32, width: u32, height: u32, value: u8) -> Picture {
        let rgb = (0..60 * 100u32)
            .flat_map(|i| {
                let (x, y) = (i % 100, i / 100);
                let inside = (left..left + width).contains(&x) && (top..top + height).contains(&y);
                [if inside { value } else { 16 }; 3]
            })
            .collect();
        Picture { width: 100, height: 60, rgb }
    }

    #[test]
    fn removes_bars_above_below_and_beside() {
        for (x, y, w, h) in [(0, 10, 100, 40), (20, 0, 60, 60), (5, 6, 70, 50)] {
            let boxed = boxed(x, y, w, h, 120);
            let trimmed = trim_borders(&boxed).unwrap().to_picture();
            assert_eq!((trimmed.width, trimmed.height), (w, h));
            assert!(trimmed.rgb.iter().all(|v| *v == 120));
        }
    }

    #[test]
    fn keeps_dark_pictures_and_pictures_without_bars() {
        assert!(trim_borders(&boxed(0, 0, 100, 60, 120)).is_none());
        assert!(trim_borders(&boxed(0, 0, 0, 0, 0)).is_none(), "all black");
        assert!(trim_borders(&boxed(40, 20, 10, 10, 120)).is_none(), "a small bright spot in the dark");
    }

    proptest! {
        #[test]
        fn removes_exactly_the_bars_around_bright_content(
            (left, width) in (0u32..30).prop_flat_map(|left| (Just(left), 40..=100 - left)),
            (top, height) in (0u32..20).prop_flat_map(|top| (Just(top), 25..=60 - top)),
            value in 40u8..,
        ) {
            let picture = boxed(left, top, width, height, value);
            match trim_borders(&picture) {
                Some(trimmed) => prop_assert_eq!((trimmed.width(), trimmed.height()), (width, height)),
                None => prop_assert_eq!((width, height), (100, 60)),
            }
        }

        #[test]
        fn keeps_a_part_of_each_side_of_any_picture(width in 1u32..20, bytes in prop::collection::vec(any::<u8>(), 3..900)) {
            let height = (bytes.len() as u32 / 3 / width).max(1);
            let mut rgb = bytes;
            rgb.resize((width * height * 3) as usize, 0);
            let picture = Picture { width, height, rgb };
            if let Some(trimmed) = trim_borders(&picture) {
                prop_assert!(trimmed.width() as f32 >= LEAST_SIDE * width as f32);
                prop_assert!(trimmed.height() as f32 >= LEAST_SIDE * height as f32);
            }
        }
    }
}
