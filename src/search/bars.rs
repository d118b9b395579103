//! Plain bars along the sides of pictures and frames, such as those of a letterboxed video.
//!
//! The edge between bars and content is strong and the same in unrelated pictures. If a picture and a frame
//! have bars in common, only their contents are compared.

use super::align::SIDE;

/// Difference in grey levels up to which a cell belongs to a bar.
const SAME: f32 = 8.0;
/// Share of the cells of a line, and of the lines of a bar, that must be plain, because a clock or a logo may
/// be in a bar.
const PLAIN: f32 = 0.7;
/// Smallest share of a side that the bars of both ends take together.
const LEAST: usize = SIDE / 10;
/// Smallest sides of the contents, in cells, that can be compared.
const LEAST_CONTENT: usize = 6;

/// Number of lines of bars at both ends of the rows (`step` 1) or of the columns.
fn bars(values: &[f32], columns: bool) -> [usize; 2] {
    let cell = |line: usize, i: usize| if columns { values[i * SIDE + line] } else { values[line * SIDE + i] };
    let count = |from_end: bool| {
        let line = |nth: usize| if from_end { SIDE - 1 - nth } else { nth };
        let mut first: Vec<f32> = (0..SIDE).map(|i| cell(line(0), i)).collect();
        first.sort_by(f32::total_cmp);
        let colour = first[SIDE / 2];
        let is_plain = |nth: usize| {
            let same = (0..SIDE).filter(|i| (cell(line(nth), *i) - colour).abs() <= SAME).count();
            same as f32 >= PLAIN * SIDE as f32
        };
        let (mut plain, mut end) = (0, 0);
        for nth in (0..SIDE).filter(|nth| is_plain(*nth)) {
            plain += 1;
            if plain as f32 >= PLAIN * (nth + 1) as f32 {
                end = nth + 1;
            }
        }
        end
    };
    [count(false), count(true)]
}

/// Contents of a picture and a frame that have bars in common.
pub(super) struct Contents {
    /// The cells that are content in both; none if there is too little.
    pub(super) mask: Vec<bool>,
    /// Left, top, right and bottom of the contents of the picture, and of the frame.
    rectangles: [[usize; 4]; 2],
}

impl Contents {
    /// `None` if the picture and the frame, both as luma in `SIDE` x `SIDE` cells, have no bars in common.
    pub(super) fn of_both(picture: &[f32], frame: &[f32]) -> Option<Contents> {
        let sides = [true, false].map(|columns| {
            let found = [picture, frame].map(|values| bars(values, columns));
            let [a, b] = found;
            let has_bars = a[0].min(b[0]) + a[1].min(b[1]) >= LEAST;
            // A cell at the edge shows both the bar and the content.
            let inner = |ends: [usize; 2]| {
                let [first, last] = ends.map(|end| if end > 0 && has_bars { end + 1 } else { 0 });
                [first, SIDE.saturating_sub(last)]
            };
            (has_bars, found.map(inner), inner([a[0].max(b[0]), a[1].max(b[1])]))
        });
        let [(in_columns, [pictures_x, frames_x], [left, right]), (in_rows, [pictures_y, frames_y], [top, bottom])] =
            sides;
        if !in_columns && !in_rows {
            return None;
        }
        let enough = left + LEAST_CONTENT <= right && top + LEAST_CONTENT <= bottom;
        let is_content = |i: usize| (top..bottom).contains(&(i / SIDE)) && (left..right).contains(&(i % SIDE));
        let rectangle = |x: [usize; 2], y: [usize; 2]| [x[0], y[0], x[1], y[1]];
        Some(Contents {
            mask: (0..SIDE * SIDE).map(|i| enough && is_content(i)).collect(),
            rectangles: [rectangle(pictures_x, pictures_y), rectangle(frames_x, frames_y)],
        })
    }

    /// The contents of the picture and of the frame, each stretched to `SIDE` x `SIDE` cells. `None` if one
    /// of them has too little content.
    pub(super) fn stretched(&self, picture: &[f32], frame: &[f32]) -> Option<[Vec<f32>; 2]> {
        let enough = |r: &[usize; 4]| r[0] + LEAST_CONTENT <= r[2] && r[1] + LEAST_CONTENT <= r[3];
        let [p, f] = self.rectangles;
        (enough(&p) && enough(&f)).then(|| [stretch(picture, p), stretch(frame, f)])
    }
}

/// A rectangle of the cells, stretched to all of them by linear interpolation.
fn stretch(values: &[f32], [left, top, right, bottom]: [usize; 4]) -> Vec<f32> {
    let positions = |from: usize, to: usize| {
        (0..SIDE).map(move |i| {
            let at = from as f32 + (i as f32 + 0.5) / SIDE as f32 * (to - from) as f32 - 0.5;
            let at = at.clamp(from as f32, (to - 1) as f32);
            (at as usize, (at as usize + 1).min(to - 1), at.fract())
        })
    };
    let columns: Vec<_> = positions(left, right).collect();
    let mut out = Vec::with_capacity(SIDE * SIDE);
    for (above, below, fy) in positions(top, bottom) {
        let value = |x: usize| values[above * SIDE + x] * (1.0 - fy) + values[below * SIDE + x] * fy;
        out.extend(columns.iter().map(|(low, high, fx)| value(*low) * (1.0 - fx) + value(*high) * fx));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stripes between plain bars above and below.
    fn letterboxed(top: usize, bottom: usize, colour: f32, seed: usize) -> Vec<f32> {
        let content = |i: usize| ((i * (seed + 7) * 31) % 211) as f32;
        let is_bar = |i: usize| i / SIDE < top || i / SIDE >= SIDE - bottom;
        (0..SIDE * SIDE).map(|i| if is_bar(i) { colour } else { content(i) }).collect()
    }

    #[test]
    fn contents_are_the_cells_without_the_bars_of_either() {
        let (a, b) = (letterboxed(6, 5, 2.0, 1), letterboxed(4, 8, 240.0, 2));
        let found = Contents::of_both(&a, &b).unwrap().mask;
        let expected: Vec<bool> = (0..SIDE * SIDE).map(|i| (7..SIDE - 9).contains(&(i / SIDE))).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn letters_in_a_bar_do_not_hide_it() {
        let (mut a, b) = (letterboxed(6, 6, 2.0, 1), letterboxed(6, 6, 2.0, 2));
        (0..20).for_each(|x| a[2 * SIDE + x] = 200.0);
        assert_eq!(
            Contents::of_both(&a, &b).unwrap().mask.iter().filter(|inside| **inside).count(),
            (SIDE - 14) * SIDE
        );
    }

    #[test]
    fn bars_of_one_of_them_or_at_other_ends_do_not_count() {
        let none = letterboxed(0, 0, 0.0, 1);
        assert!(Contents::of_both(&letterboxed(9, 9, 0.0, 2), &none).is_none());
        assert!(Contents::of_both(&letterboxed(9, 0, 0.0, 2), &letterboxed(0, 9, 0.0, 3)).is_none());
    }

    #[test]
    fn contents_of_other_bars_are_stretched_to_the_same_size() {
        let slope = |top: usize, bottom: usize| -> Vec<f32> {
            let content = |y: usize| 40.0 + 200.0 * (y as f32 + 0.5 - top as f32) / (SIDE - top - bottom) as f32;
            let is_bar = |y: usize| y < top || y >= SIDE - bottom;
            (0..SIDE * SIDE).map(|i| if is_bar(i / SIDE) { 0.0 } else { content(i / SIDE) }).collect()
        };
        let (a, b) = (slope(4, 4), slope(8, 8));
        let [p, f] = Contents::of_both(&a, &b).unwrap().stretched(&a, &b).unwrap();
        assert!(p.iter().zip(&f).all(|(p, f)| (p - f).abs() < 12.0), "{p:?} {f:?}");
    }

    #[test]
    fn plain_pictures_have_no_contents() {
        let plain = vec![3.0; SIDE * SIDE];
        assert!(Contents::of_both(&plain, &plain).unwrap().mask.iter().all(|inside| !inside));
    }
}
