//! Parts of a picture that may be a frame of a video: quadrilaterals between strong straight edges.
//!
//! A line is scored by its best segment: each pixel of the line on an edge counts 1, each other -1, and the
//! segment is the one with the highest sum. So a side of a small part counts, and a line of letters does not.

use super::warp::{Point, Pyramid, Quad, area};

/// Difference of neighbouring pixels in a channel from which there is an edge.
const EDGE: f32 = 14.0;
/// Longest side of the copy in which upright rectangles are looked for, and of that for other quadrilaterals.
const UPRIGHT_SIDE: usize = 320;
const SLANTED_SIDE: usize = 160;
/// Smallest side of such a copy.
const LEAST_MAP: usize = 16;
/// Number of best lines in each direction, level or upright, and with slopes.
const LINES: usize = 18;
const SLANTED_LINES: usize = 16;
/// Shortest segment, in shares of the line.
const LEAST_SEGMENT: f32 = 0.08;
/// Lines that are nearer at both ends count as one.
const SAME_LINE: f32 = 2.5;
/// Positions of a side where edges are counted.
const SAMPLES: usize = 24;
/// Steps of the slope of a line.
const SLOPE_STEP: f32 = 0.025;
/// Largest slopes of a side that is nearly level, and nearly upright.
const SLOPES: [f32; 2] = [0.3, 0.5];
/// Smallest sides of an upright rectangle, in pixels of its copy.
const LEAST_UPRIGHT: [usize; 2] = [24, 16];
/// Smallest area of a part, in shares of the picture.
const LEAST_AREA: f32 = 0.012;
/// Width divided by height of a part.
const ASPECTS: std::ops::RangeInclusive<f32> = 0.4..=3.2;
/// Two parts with more overlap count as one.
const SAME: f32 = 0.86;

/// A part, and how likely it is a frame.
#[derive(Debug, Clone, Copy)]
struct Proposal {
    quad: Quad,
    score: f32,
}

/// The best proposals: upright rectangles, then other quadrilaterals.
pub(super) fn proposals(pyramid: &Pyramid, upright: usize, slanted: usize) -> Vec<Quad> {
    let map = |longest: usize| EdgeMap::of(pyramid, longest);
    let (mut best, slanted) = rayon::join(
        || map(UPRIGHT_SIDE).map_or_else(Vec::new, |map| map.rectangles(upright)),
        || map(SLANTED_SIDE).map_or_else(Vec::new, |map| map.quadrilaterals(slanted)),
    );
    for proposal in slanted {
        if best.iter().all(|other| !is_same(&other.quad, &proposal.quad)) {
            best.push(proposal);
        }
    }
    best.into_iter().map(|proposal| proposal.quad).collect()
}

/// Where neighbouring pixels differ.
struct EdgeMap {
    width: usize,
    height: usize,
    /// Size of a pixel of the map in pixels of the picture.
    scale: [f32; 2],
    /// Edges between a pixel and the one below.
    level: Edges,
    /// Edges between a pixel and the one to its right.
    upright: Edges,
}

/// Edges of one direction: lines of `length` pixels, one between each two of `breadth` rows or columns.
struct Edges {
    length: usize,
    breadth: usize,
    set: Vec<bool>,
}

/// Sums of each line of edges up to each position.
struct EdgeSums {
    length: usize,
    sums: Vec<u16>,
}

/// A line across the picture: its distance from the first row or column at both ends, in pixels of the map.
#[derive(Debug, Clone, Copy)]
struct Line {
    from: f32,
    to: f32,
}

impl Line {
    fn slope(&self, length: usize) -> f32 {
        (self.to - self.from) / length as f32
    }

    /// Whether it is a side of the picture, where there is no edge.
    fn is_side(&self, breadth: usize) -> bool {
        self.from == self.to && (self.from == 0.0 || self.from == breadth as f32)
    }

    fn sorted<'a>(a: &'a Line, b: &'a Line) -> (&'a Line, &'a Line) {
        if a.from + a.to < b.from + b.to { (a, b) } else { (b, a) }
    }
}

impl Edges {
    /// The best lines, and the two sides of the picture. `slope` is the largest one.
    fn lines(&self, slope: f32, most: usize) -> Vec<Line> {
        let Edges { length, breadth, ref set } = *self;
        let steps = (slope / SLOPE_STEP) as i32;
        let mut lines = Vec::new();
        for step in -steps..=steps {
            let slope = step as f32 * SLOPE_STEP;
            let rise = slope * length as f32;
            for start in (-rise.max(0.0)) as i32..breadth as i32 + (-rise).max(0.0) as i32 {
                let (mut sum, mut best) = (0i32, 0i32);
                for i in 0..length {
                    let at = start as f32 + slope * i as f32;
                    let edge = at >= 0.0 && (at as usize) < breadth - 1 && set[at as usize * length + i];
                    sum = (sum + if edge { 1 } else { -1 }).max(0);
                    best = best.max(sum);
                }
                if best as f32 >= length as f32 * LEAST_SEGMENT {
                    lines.push((best, Line { from: start as f32, to: start as f32 + rise }));
                }
            }
        }
        lines.sort_by_key(|(score, _)| std::cmp::Reverse(*score));
        let mut kept: Vec<Line> = Vec::new();
        for (_, line) in lines {
            let near = |other: &Line| (other.from - line.from).abs().max((other.to - line.to).abs()) < SAME_LINE;
            if kept.len() < most && !kept.iter().any(near) {
                kept.push(line);
            }
        }
        // An edge is between two pixels.
        kept.iter_mut().for_each(|line| (line.from, line.to) = (line.from + 1.0, line.to + 1.0));
        kept.extend([0.0, breadth as f32].map(|at| Line { from: at, to: at }));
        kept
    }

    /// The same edges and those one pixel beside them, because slopes have steps.
    fn widened(&self) -> Edges {
        let is_edge = |at: Option<usize>| at.and_then(|at| self.set.get(at)).is_some_and(|edge| *edge);
        let near =
            |at: usize| is_edge(Some(at)) || is_edge(at.checked_sub(self.length)) || is_edge(Some(at + self.length));
        let set = (0..self.set.len()).map(near).collect();
        Edges { set, ..*self }
    }

    fn sums(&self) -> EdgeSums {
        let mut sums = Vec::with_capacity(self.set.len() + self.breadth);
        for line in self.set.chunks_exact(self.length) {
            let mut sum = 0u16;
            sums.push(0);
            sums.extend(line.iter().map(|edge| {
                sum += u16::from(*edge);
                sum
            }));
        }
        EdgeSums { length: self.length, sums }
    }

    /// Share of edges between two points, whose coordinates are along the lines and across them.
    fn share_between(&self, from: Point, to: Point) -> f32 {
        let is_edge = |i: &usize| {
            let part = (*i as f32 + 0.5) / SAMPLES as f32;
            let [along, across] = [0, 1].map(|k| from[k] + (to[k] - from[k]) * part);
            let along = along.clamp(0.0, self.length as f32 - 1.0) as usize;
            across >= 1.0 && self.set.get((across - 1.0) as usize * self.length + along).is_some_and(|edge| *edge)
        };
        (0..SAMPLES).filter(is_edge).count() as f32 / SAMPLES as f32
    }
}

impl EdgeSums {
    /// Share of edges between two positions of the line before row or column `at`.
    fn share(&self, at: usize, from: usize, to: usize) -> f32 {
        let line = &self.sums[(at - 1) * (self.length + 1)..];
        f32::from(line[to] - line[from]) / (to - from) as f32
    }
}

/// All pairs, in the order of the slice.
fn pairs<T>(items: &[T]) -> impl Iterator<Item = (&T, &T)> {
    items.iter().enumerate().flat_map(|(i, first)| items[i + 1..].iter().map(move |second| (first, second)))
}

impl EdgeMap {
    /// `None` if the picture is too narrow for parts.
    fn of(pyramid: &Pyramid, longest: usize) -> Option<EdgeMap> {
        let (width, height, scale, pixels) = pyramid.colours(longest);
        if width.min(height) < LEAST_MAP {
            return None;
        }
        let differs = |a: &[f32; 4], b: &[f32; 4]| (0..3).any(|i| (a[i] - b[i]).abs() > EDGE);
        let at = |x: usize, y: usize| &pixels[y * width + x];
        let below = |i: usize| differs(at(i % width, i / width), at(i % width, i / width + 1));
        let right = |i: usize| differs(at(i / height, i % height), at(i / height + 1, i % height));
        let level = Edges { length: width, breadth: height, set: (0..width * (height - 1)).map(below).collect() };
        let upright = Edges { length: height, breadth: width, set: (0..height * (width - 1)).map(right).collect() };
        Some(EdgeMap { width, height, scale, level, upright })
    }

    /// The best upright rectangles.
    fn rectangles(&self, most: usize) -> Vec<Proposal> {
        let (width, height) = (self.width, self.height);
        let positions = |lines: Vec<Line>| {
            let mut positions: Vec<usize> = lines.iter().map(|line| line.from as usize).collect();
            positions.sort_unstable();
            positions
        };
        let rows = positions(self.level.lines(0.0, LINES));
        let columns = positions(self.upright.lines(0.0, LINES));
        let (level, upright) = (self.level.sums(), self.upright.sums());
        let least_area = LEAST_AREA * (width * height) as f32;
        let mut found = Vec::new();
        for (top, bottom) in pairs(&rows) {
            for (left, right) in pairs(&columns) {
                let (w, h) = (right - left, bottom - top);
                let small = w < LEAST_UPRIGHT[0] || h < LEAST_UPRIGHT[1] || (w * h) as f32 <= least_area;
                if small || !ASPECTS.contains(&(w as f32 / h as f32)) {
                    continue;
                }
                let sides = [
                    (*top > 0).then(|| level.share(*top, *left, *right)),
                    (*bottom < height).then(|| level.share(*bottom, *left, *right)),
                    (*left > 0).then(|| upright.share(*left, *top, *bottom)),
                    (*right < width).then(|| upright.share(*right, *top, *bottom)),
                ];
                let [l, t, r, b] = [left, top, right, bottom].map(|v| *v as f32);
                found.extend(self.proposal([[l, t], [r, t], [r, b], [l, b]], sides));
            }
        }
        best(found, most)
    }

    /// The best quadrilaterals whose sides may have a slope.
    fn quadrilaterals(&self, most: usize) -> Vec<Proposal> {
        let (level, upright) = (self.level.widened(), self.upright.widened());
        let rows = level.lines(SLOPES[0], SLANTED_LINES);
        let columns = upright.lines(SLOPES[1], SLANTED_LINES);
        let mut found = Vec::new();
        for (a, b) in pairs(&rows) {
            let (top, bottom) = Line::sorted(a, b);
            for (c, d) in pairs(&columns) {
                let (left, right) = Line::sorted(c, d);
                let corner = |row: &Line, column: &Line| self.crossing(row, column);
                let quad = [corner(top, left), corner(top, right), corner(bottom, right), corner(bottom, left)];
                if !self.is_possible(&quad) {
                    continue;
                }
                let swapped = quad.map(|[x, y]| [y, x]);
                let sides = [
                    (!top.is_side(self.height)).then(|| level.share_between(quad[0], quad[1])),
                    (!bottom.is_side(self.height)).then(|| level.share_between(quad[3], quad[2])),
                    (!left.is_side(self.width)).then(|| upright.share_between(swapped[0], swapped[3])),
                    (!right.is_side(self.width)).then(|| upright.share_between(swapped[1], swapped[2])),
                ];
                found.extend(self.proposal(quad, sides));
            }
        }
        best(found, most)
    }

    /// The point where two lines meet.
    fn crossing(&self, row: &Line, column: &Line) -> Point {
        let (row_slope, column_slope) = (row.slope(self.width), column.slope(self.height));
        let x = (column.from + column_slope * row.from) / (1.0 - row_slope * column_slope);
        [x, row.from + row_slope * x]
    }

    /// Whether a quadrilateral is convex, inside the picture, and of a size and shape that a frame may have.
    fn is_possible(&self, quad: &Quad) -> bool {
        let (w, h) = (self.width as f32, self.height as f32);
        let inside = |p: &Point| (-2.0..=w + 2.0).contains(&p[0]) && (-2.0..=h + 2.0).contains(&p[1]);
        let length = |p: Point, q: Point| (p[0] - q[0]).hypot(p[1] - q[1]);
        let [top, right, bottom, left] = [0, 1, 2, 3].map(|i| length(quad[i], quad[(i + 1) % 4]));
        let similar = |a: f32, b: f32| a.max(b) < 1.8 * a.min(b);
        quad.iter().all(inside)
            && top.min(bottom) >= 12.0
            && left.min(right) >= 8.0
            && similar(top, bottom)
            && similar(left, right)
            && ASPECTS.contains(&((top + bottom) / (left + right)))
            && area(quad) > LEAST_AREA * w * h
    }

    /// A part with the shares of edges on those of its sides that are not sides of the picture; `None` for
    /// the whole picture.
    fn proposal(&self, quad: Quad, sides: [Option<f32>; 4]) -> Option<Proposal> {
        let known = || sides.into_iter().flatten();
        let least = known().reduce(f32::min)?;
        let count = known().count() as f32;
        let size = (area(&quad) / (self.width * self.height) as f32).max(0.0).sqrt();
        let score = 0.5 * least + 0.5 * known().sum::<f32>() / count + 0.15 * size;
        Some(Proposal { quad: quad.map(|p| [p[0] * self.scale[0], p[1] * self.scale[1]]), score })
    }
}

/// The proposals of the highest score that differ from each other.
fn best(mut found: Vec<Proposal>, most: usize) -> Vec<Proposal> {
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut kept: Vec<Proposal> = Vec::new();
    for proposal in found {
        if kept.len() == most {
            break;
        }
        if kept.iter().all(|other| !is_same(&other.quad, &proposal.quad)) {
            kept.push(proposal);
        }
    }
    kept
}

/// Whether two quadrilaterals differ little: by their bounding rectangles and their corners.
fn is_same(a: &Quad, b: &Quad) -> bool {
    let bounds = |quad: &Quad| {
        let (x, y) = (quad.map(|p| p[0]), quad.map(|p| p[1]));
        let least = |v: [f32; 4]| v.into_iter().fold(f32::MAX, f32::min);
        let most = |v: [f32; 4]| v.into_iter().fold(f32::MIN, f32::max);
        [least(x), least(y), most(x), most(y)]
    };
    let (p, q) = (bounds(a), bounds(b));
    let shared = (p[2].min(q[2]) - p[0].max(q[0])).max(0.0) * (p[3].min(q[3]) - p[1].max(q[1])).max(0.0);
    let sides = |r: [f32; 4]| (r[2] - r[0]) * (r[3] - r[1]);
    let apart = (0..4).map(|i| (a[i][0] - b[i][0]).hypot(a[i][1] - b[i][1])).fold(0.0, f32::max);
    let side = sides(p).min(sides(q)).max(1.0).sqrt();
    shared / (sides(p) + sides(q) - shared) > SAME && apart < 0.12 * side
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::seeded::Random;
    use crate::media::Picture;

    /// A plain picture with a quadrilateral of blocks of random colours.
    fn with_part(width: u32, height: u32, quad: Quad, ground: u8) -> Picture {
        let mut random = Random::new(3, "part");
        let blocks: Vec<[u8; 3]> = (0..256).map(|_| [0; 3].map(|_: u8| random.up_to(255) as u8)).collect();
        let right_of =
            |a: Point, b: Point, x: f32, y: f32| (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0]) > 0.0;
        let pixel = |i: u32| {
            let (x, y) = (i % width, i / width);
            let inside = (0..4).all(|k| right_of(quad[k], quad[(k + 1) % 4], x as f32 + 0.5, y as f32 + 0.5));
            // Blocks on the diagonals: their edges are not sides of a part.
            let block = (x + y) / 30 % 16 * 16 + (x + height - y) / 30 % 16;
            if inside { blocks[block as usize] } else { [ground; 3] }
        };
        Picture { width, height, rgb: (0..width * height).flat_map(pixel).collect() }
    }

    /// The smallest distance of the farthest corner, over all proposals.
    fn distance(picture: &Picture, quad: &Quad) -> f32 {
        let proposals = proposals(&Pyramid::of(picture.view()), 28, 24);
        let farthest = |other: &Quad| {
            (0..4).map(|i| (other[i][0] - quad[i][0]).hypot(other[i][1] - quad[i][1])).fold(0.0, f32::max)
        };
        proposals.iter().map(farthest).fold(f32::MAX, f32::min)
    }

    #[test]
    fn proposes_an_upright_rectangle() {
        for (x, y, w, h) in [(0.0, 300.0, 540.0, 304.0), (60.0, 40.0, 240.0, 135.0), (200.0, 700.0, 300.0, 225.0)] {
            let quad = [[x, y], [x + w, y], [x + w, y + h], [x, y + h]];
            for ground in [0, 255] {
                let found = distance(&with_part(540, 960, quad, ground), &quad);
                assert!(found < 8.0, "{quad:?} on {ground}: {found} pixels off");
            }
        }
    }

    #[test]
    fn proposes_a_part_in_perspective() {
        let quad = [[150.0, 90.0], [480.0, 130.0], [460.0, 330.0], [120.0, 300.0]];
        let found = distance(&with_part(640, 480, quad, 90), &quad);
        assert!(found < 16.0, "{found} pixels off");
    }

    #[test]
    fn pictures_without_lines_or_of_few_pixels_have_no_proposals() {
        for (width, height) in [(1, 1), (1, 3000), (3000, 1), (15, 400), (500, 500)] {
            let plain = Picture { width, height, rgb: vec![90; (width * height * 3) as usize] };
            assert!(proposals(&Pyramid::of(plain.view()), 28, 24).is_empty(), "{width} x {height}");
        }
    }
}
