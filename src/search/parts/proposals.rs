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
/// Number of best lines in each direction.
const LINES: usize = 18;
/// Steps of the slope of a line.
const SLOPE_STEP: f32 = 0.025;
/// Largest slopes of a side that is nearly level, and nearly upright.
const SLOPES: [f32; 2] = [0.3, 0.5];
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
    let mut best = EdgeMap::of(pyramid, UPRIGHT_SIDE).rectangles(upright);
    let map = EdgeMap::of(pyramid, SLANTED_SIDE);
    for proposal in map.quadrilaterals(slanted) {
        if best.iter().all(|other| !is_same(&other.quad, &proposal.quad)) {
            best.push(proposal);
        }
    }
    best.into_iter().map(|proposal| proposal.quad).collect()
}

/// Where neighbouring pixels differ, on both axes.
struct EdgeMap {
    width: usize,
    height: usize,
    /// Size of a pixel of the map in pixels of the picture.
    scale: [f32; 2],
    /// Whether there is an edge between this pixel and the one below: height - 1 rows.
    level: Vec<bool>,
    /// Whether there is an edge between this pixel and the one to the right, by columns: width - 1 columns.
    upright: Vec<bool>,
}

/// A line across the picture: its distance from the first pixel on both ends, in pixels of the map.
#[derive(Debug, Clone, Copy)]
struct Line {
    from: f32,
    to: f32,
    score: f32,
}

impl EdgeMap {
    fn of(pyramid: &Pyramid, longest: usize) -> EdgeMap {
        let (width, height, scale, pixels) = pyramid.colours(longest);
        let differs = |a: &[f32; 4], b: &[f32; 4]| (0..3).any(|i| (a[i] - b[i]).abs() > EDGE);
        let at = |x: usize, y: usize| &pixels[y * width + x];
        let mut level = Vec::with_capacity(width * height);
        for y in 1..height {
            level.extend((0..width).map(|x| differs(at(x, y - 1), at(x, y))));
        }
        let mut upright = Vec::with_capacity(width * height);
        for x in 1..width {
            upright.extend((0..height).map(|y| differs(at(x - 1, y), at(x, y))));
        }
        EdgeMap { width, height, scale, level, upright }
    }

    /// The best lines of an axis, the sides of the picture included. `slope` is the largest one.
    fn lines(edges: &[bool], length: usize, breadth: usize, slope: f32, most: usize) -> Vec<Line> {
        let steps = (slope / SLOPE_STEP) as i32;
        let mut lines = Vec::new();
        for step in -steps..=steps {
            let slope = step as f32 * SLOPE_STEP;
            let rise = slope * length as f32;
            let first = (-rise.max(0.0)) as i32;
            for start in first..breadth as i32 + (-rise).max(0.0) as i32 {
                let line = Line { from: start as f32, to: start as f32 + rise, score: 0.0 };
                let (mut sum, mut best) = (0.0f32, 0.0f32);
                for i in 0..length {
                    let at = line.from + slope * i as f32;
                    let edge = at >= 0.0 && (at as usize) < breadth - 1 && edges[at as usize * length + i];
                    sum = (sum + if edge { 1.0 } else { -1.0 }).max(0.0);
                    best = best.max(sum);
                }
                if best >= length as f32 * 0.08 {
                    lines.push(Line { score: best / length as f32, ..line });
                }
            }
        }
        lines.sort_by(|a, b| b.score.total_cmp(&a.score));
        let mut kept: Vec<Line> = Vec::new();
        for line in lines {
            let near = |other: &Line| (other.from - line.from).abs().max((other.to - line.to).abs()) < 2.5;
            if !kept.iter().any(near) {
                kept.push(line);
                if kept.len() == most {
                    break;
                }
            }
        }
        // An edge is between two pixels.
        kept.iter_mut().for_each(|line| (line.from, line.to) = (line.from + 1.0, line.to + 1.0));
        let side = |at: usize| Line { from: at as f32, to: at as f32, score: 1.0 };
        kept.extend([side(0), side(breadth)]);
        kept
    }

    fn rectangles(&self, most: usize) -> Vec<Proposal> {
        if self.width < 16 || self.height < 16 {
            return Vec::new();
        }
        let position = |line: &Line| line.from as usize;
        let mut rows: Vec<usize> =
            EdgeMap::lines(&self.level, self.width, self.height, 0.0, LINES).iter().map(position).collect();
        let mut columns: Vec<usize> =
            EdgeMap::lines(&self.upright, self.height, self.width, 0.0, LINES).iter().map(position).collect();
        rows.sort_unstable();
        columns.sort_unstable();
        let level = sums(&self.level, self.width);
        let upright = sums(&self.upright, self.height);
        let share = |sums: &[u16], length: usize, at: usize, from: usize, to: usize| {
            let row = &sums[(at - 1) * (length + 1)..];
            f32::from(row[to] - row[from]) / (to - from) as f32
        };
        let mut found = Vec::new();
        for (i, &top) in rows.iter().enumerate() {
            for &bottom in &rows[i + 1..] {
                for (j, &left) in columns.iter().enumerate() {
                    for &right in &columns[j + 1..] {
                        let (w, h) = (right - left, bottom - top);
                        let small =
                            w < 24 || h < 16 || (w * h) as f32 <= LEAST_AREA * (self.width * self.height) as f32;
                        let whole = (w, h) == (self.width, self.height);
                        if small || whole || !ASPECTS.contains(&(w as f32 / h as f32)) {
                            continue;
                        }
                        let sides = [
                            (top > 0).then(|| share(&level, self.width, top, left, right)),
                            (bottom < self.height).then(|| share(&level, self.width, bottom, left, right)),
                            (left > 0).then(|| share(&upright, self.height, left, top, bottom)),
                            (right < self.width).then(|| share(&upright, self.height, right, top, bottom)),
                        ];
                        let [l, t, r, b] = [left, top, right, bottom].map(|v| v as f32);
                        found.push(self.proposal([[l, t], [r, t], [r, b], [l, b]], sides));
                    }
                }
            }
        }
        self.best(found, most)
    }

    fn quadrilaterals(&self, most: usize) -> Vec<Proposal> {
        if self.width < 16 || self.height < 16 {
            return Vec::new();
        }
        let wide = |edges: &[bool], length: usize, breadth: usize| {
            // An edge counts one pixel away as well, because slopes have steps.
            let mut wide = edges.to_vec();
            for row in 0..breadth - 1 {
                for i in 0..length {
                    let at = row * length + i;
                    wide[at] |= (row > 0 && edges[at - length]) || (row + 2 < breadth && edges[at + length]);
                }
            }
            wide
        };
        let (level, upright) =
            (wide(&self.level, self.width, self.height), wide(&self.upright, self.height, self.width));
        let rows = EdgeMap::lines(&level, self.width, self.height, SLOPES[0], LINES - 2);
        let columns = EdgeMap::lines(&upright, self.height, self.width, SLOPES[1], LINES - 2);
        let (w, h) = (self.width as f32, self.height as f32);
        // x = c(y), y = r(x)
        let crossing = |row: &Line, column: &Line| -> Point {
            let (rs, cs) = ((row.to - row.from) / w, (column.to - column.from) / h);
            let x = (column.from + cs * row.from) / (1.0 - rs * cs);
            [x, row.from + rs * x]
        };
        let share = |edges: &[bool], length: usize, breadth: usize, from: [f32; 2], to: [f32; 2]| {
            // Positions along and across.
            let mut hits = 0;
            const SAMPLES: usize = 24;
            for i in 0..SAMPLES {
                let part = (i as f32 + 0.5) / SAMPLES as f32;
                let [along, across] = [0, 1].map(|k| from[k] + (to[k] - from[k]) * part);
                let (along, across) = (along.clamp(0.0, length as f32 - 1.0) as usize, across - 1.0);
                hits += usize::from(
                    across >= 0.0 && (across as usize) < breadth - 1 && edges[across as usize * length + along],
                );
            }
            hits as f32 / SAMPLES as f32
        };
        let mut found = Vec::new();
        for (i, a) in rows.iter().enumerate() {
            for b in &rows[i + 1..] {
                let (top, bottom) = if a.from + a.to < b.from + b.to { (a, b) } else { (b, a) };
                for (j, c) in columns.iter().enumerate() {
                    for d in &columns[j + 1..] {
                        let (left, right) = if c.from + c.to < d.from + d.to { (c, d) } else { (d, c) };
                        let quad = [
                            crossing(top, left),
                            crossing(top, right),
                            crossing(bottom, right),
                            crossing(bottom, left),
                        ];
                        if !self.is_possible(&quad) {
                            continue;
                        }
                        let on_side = |line: &Line, breadth: f32| {
                            line.from == line.to && (line.from == 0.0 || line.from == breadth)
                        };
                        let level_share = |line: &Line, p: Point, q: Point| {
                            (!on_side(line, h)).then(|| share(&level, self.width, self.height, p, q))
                        };
                        let upright_share = |line: &Line, p: Point, q: Point| {
                            (!on_side(line, w))
                                .then(|| share(&upright, self.height, self.width, [p[1], p[0]], [q[1], q[0]]))
                        };
                        let sides = [
                            level_share(top, quad[0], quad[1]),
                            level_share(bottom, quad[3], quad[2]),
                            upright_share(left, quad[0], quad[3]),
                            upright_share(right, quad[1], quad[2]),
                        ];
                        found.push(self.proposal(quad, sides));
                    }
                }
            }
        }
        self.best(found, most)
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

    fn proposal(&self, quad: Quad, sides: [Option<f32>; 4]) -> Proposal {
        let known = || sides.into_iter().flatten();
        let (least, count) = (known().fold(1.0, f32::min), known().count().max(1) as f32);
        let size = (area(&quad) / (self.width * self.height) as f32).max(0.0).sqrt();
        let score = 0.5 * least + 0.5 * known().sum::<f32>() / count + 0.15 * size;
        Proposal { quad: quad.map(|p| [p[0] * self.scale[0], p[1] * self.scale[1]]), score }
    }

    fn best(&self, mut found: Vec<Proposal>, most: usize) -> Vec<Proposal> {
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
        let mut kept: Vec<Proposal> = Vec::new();
        for proposal in found {
            if kept.iter().all(|other| !is_same(&other.quad, &proposal.quad)) {
                kept.push(proposal);
                if kept.len() == most {
                    break;
                }
            }
        }
        kept
    }
}

/// Sums of each row up to each position: `length + 1` numbers a row.
fn sums(edges: &[bool], length: usize) -> Vec<u16> {
    let mut sums = Vec::with_capacity(edges.len() + edges.len() / length);
    for row in edges.chunks_exact(length) {
        let mut sum = 0u16;
        sums.push(0);
        sums.extend(row.iter().map(|edge| {
            sum += u16::from(*edge);
            sum
        }));
    }
    sums
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
