//! Aligns a part of a picture with a sketch: moves the corners until the correlation is highest.
//!
//! Gauss-Newton on the difference of both, without their local means (as the ECC algorithm of Evangelidis and
//! Psarakis, 2008, on a grid of 32 x 32 cells): first with four numbers (the sides of a rectangle) and a
//! wide, blurred neighbourhood, then with eight (the corners).

use super::warp::{Homography, Pyramid, Quad, area};
use crate::search::align::SIDE;
use crate::search::bars::Contents;

const CELLS: usize = SIDE * SIDE;
/// Standard deviation in grey levels that counts as flat.
const FLOOR: f32 = 1.5;
/// Local deviation in grey levels that counts as flat where structure is compared.
const FLAT: f32 = 6.0;
/// Scale of a structure, so that [`FLOOR`] is a twentieth of its deviation.
const SCALE: f32 = 30.0;
/// Half the side of the window whose mean is removed: in the first stage and in the second.
const BLURS: [usize; 2] = [7, 3];
const ROUNDS: [usize; 2] = [4, 5];
/// Longest move of a corner in one step, in cells.
const LONGEST_STEP: [f32; 2] = [2.5, 1.5];

/// A sketch that parts are aligned with.
pub(super) struct FrameSketch {
    raw: Vec<f32>,
    coarse: Vec<f32>,
    fine: Vec<f32>,
}

/// The best position of a frame in a picture.
#[derive(Debug, Clone, Copy)]
pub(super) struct Alignment {
    pub(super) quad: Quad,
    /// Correlation of the local structure, without the fifth of the blocks that differ most: -1 to 1.
    pub(super) structure: f32,
    /// Share of the frame's cells that are inside the picture.
    pub(super) inside: f32,
    /// Share of the frame's blocks that hold its structure: small for a frame of a few edges.
    pub(super) spread: f32,
}

impl FrameSketch {
    pub(super) fn of(sketch: &[u8]) -> FrameSketch {
        assert_eq!(sketch.len(), CELLS, "bytes of a sketch");
        let values: Vec<f32> = sketch.iter().map(|v| f32::from(*v)).collect();
        let all = vec![true; CELLS];
        FrameSketch {
            coarse: smoothed(&without_local_mean(&values, &all, BLURS[0])),
            fine: without_local_mean(&values, &all, BLURS[1]),
            raw: values,
        }
    }
}

/// A patch of the picture in the grid of a sketch.
struct Patch {
    raw: Vec<f32>,
    inside: Vec<bool>,
}

impl Patch {
    fn of(pyramid: &Pyramid, map: &Homography) -> Patch {
        let (mut raw, mut inside) = (Vec::with_capacity(CELLS), Vec::with_capacity(CELLS));
        pyramid.luma(map, SIDE, &mut raw, &mut inside);
        Patch { raw, inside }
    }
}

/// The part of a picture before alignment, which is compared with many frames.
pub(super) struct UnalignedPatch {
    fine: Vec<f32>,
    inside: Vec<bool>,
}

impl UnalignedPatch {
    pub(super) fn of(pyramid: &Pyramid, quad: &Quad) -> UnalignedPatch {
        let patch = Patch::of(pyramid, &Homography::to(*quad));
        UnalignedPatch {
            fine: smoothed(&without_local_mean(&patch.raw, &patch.inside, BLURS[0])),
            inside: patch.inside,
        }
    }

    pub(super) fn correlation(&self, frame: &FrameSketch) -> f32 {
        correlation(&self.fine, &frame.coarse, &self.inside).0
    }
}

/// Correlation over the marked cells, and the factor that brings the first to the contrast of the second.
fn correlation(q: &[f32], f: &[f32], inside: &[bool]) -> (f32, f32) {
    let (mut qq, mut ff, mut qf, mut qs, mut fs, mut count) = (0.0f32, 0.0f32, 0.0f32, 0.0f32, 0.0f32, 0.0f32);
    for ((q, f), inside) in q.iter().zip(f).zip(inside) {
        let (q, f) = if *inside { (*q, *f) } else { (0.0, 0.0) };
        qq += q * q;
        ff += f * f;
        qf += q * f;
        qs += q;
        fs += f;
        count += f32::from(u8::from(*inside));
    }
    if count < 32.0 {
        return (-1.0, 0.0);
    }
    let (qq, ff, qf) = (qq - qs * qs / count, ff - fs * fs / count, qf - qs * fs / count);
    let floor = count * FLOOR * FLOOR;
    (qf / ((qq + floor) * (ff + floor)).sqrt(), qf / (qq + floor))
}

/// Aligns the sides of a part with a frame. Returns the part and its correlation.
pub(super) fn align_sides(pyramid: &Pyramid, start: Quad, frame: &FrameSketch) -> (Quad, f32) {
    let (correlation, quad) = climb(pyramid, start, frame, 0, area(&start).abs());
    (quad, correlation)
}

/// Aligns the corners of a part, whose sides are aligned, with a frame.
pub(super) fn align_corners(pyramid: &Pyramid, start: Quad, frame: &FrameSketch) -> Alignment {
    let (_, quad) = climb(pyramid, start, frame, 1, area(&start).abs());
    let Patch { raw, inside } = Patch::of(pyramid, &Homography::to(quad));
    let share = inside.iter().filter(|inside| **inside).count() as f32 / CELLS as f32;
    let contents = Contents::of_both(&raw, &frame.raw);
    let compared = match &contents {
        Some(contents) => inside.iter().zip(&contents.mask).map(|(inside, content)| *inside && *content).collect(),
        None => inside,
    };
    let f = match &contents {
        Some(_) => &without_local_mean(&frame.raw, &compared, BLURS[1]),
        None => &frame.fine,
    };
    let q = without_local_mean(&raw, &compared, BLURS[1]);
    let (q, f) = (normalised(&q, &compared), normalised(f, &compared));
    // A few cells correlate by chance.
    let count = compared.iter().filter(|compared| **compared).count() as f32;
    let certain = (count / (share * CELLS as f32).max(1.0)).sqrt();
    let structure = certain * trimmed(&q, &f, &compared);
    Alignment { quad, structure, inside: share, spread: spread(&f).min(spread(&q)) }
}

/// The correlation of a picture and a frame, both as luma in cells, where `compared` is set: -1 to 1.
pub(in crate::search) fn correlation_within(picture: &[f32], frame: &[f32], compared: &[bool]) -> f32 {
    let [q, f] = [picture, frame].map(|values| without_local_mean(values, compared, BLURS[1]));
    correlation(&q, &f, compared).0
}

fn climb(pyramid: &Pyramid, start: Quad, frame: &FrameSketch, stage: usize, size: f32) -> (f32, Quad) {
    let target = if stage == 0 { &frame.coarse } else { &frame.fine };
    let (mut best, mut quad) = ((-1.0f32, start), start);
    for _ in 0..ROUNDS[stage] {
        let map = Homography::to(quad);
        let patch = Patch::of(pyramid, &map);
        let mut values = without_local_mean(&patch.raw, &patch.inside, BLURS[stage]);
        if stage == 0 {
            values = smoothed(&values);
        }
        let (found, factor) = correlation(&values, target, &patch.inside);
        if found > best.0 {
            best = (found, quad);
        }
        if factor <= 0.0 || found < best.0 - 0.02 {
            break;
        }
        let Some(step) = step(&values, target, &patch.inside, factor, stage == 1) else { break };
        let longest = step.iter().fold(0.0f32, |longest, v| longest.max(v.abs()));
        let shrink = (LONGEST_STEP[stage] / longest.max(1e-6)).min(1.0) / SIDE as f32;
        let corner = |i: usize, u: f32, v: f32| map.at(u + step[2 * i] * shrink, v + step[2 * i + 1] * shrink);
        quad = [corner(0, 0.0, 0.0), corner(1, 1.0, 0.0), corner(2, 1.0, 1.0), corner(3, 0.0, 1.0)];
        let now = area(&quad).abs();
        if !(0.5 * size..=2.0 * size).contains(&now) || !is_convex(&quad) {
            break;
        }
        if longest < 0.1 {
            break;
        }
    }
    best
}

fn is_convex(quad: &Quad) -> bool {
    let turn = |i: usize| {
        let (a, b, c) = (quad[i], quad[(i + 1) % 4], quad[(i + 2) % 4]);
        (b[0] - a[0]) * (c[1] - b[1]) - (b[1] - a[1]) * (c[0] - b[0])
    };
    let first = turn(0);
    (0..4).all(|i| turn(i) * first > 0.0)
}

/// The moves of the corners, in cells, that minimise the squared difference: x and y of each corner.
/// With `corners` false, the part stays a rectangle.
fn step(q: &[f32], f: &[f32], inside: &[bool], factor: f32, corners: bool) -> Option<[f32; 8]> {
    let count = if corners { 8 } else { 4 };
    let (mut normal, mut right) = ([[0.0f32; 8]; 8], [0.0f32; 8]);
    let slope = |values: &[f32], low: usize, high: usize| (values[high] - values[low]) / 2.0;
    for y in 1..SIDE - 1 {
        let v = (y as f32 + 0.5) / SIDE as f32;
        for x in 1..SIDE - 1 {
            let at = y * SIDE + x;
            if !(inside[at] && inside[at - 1] && inside[at + 1] && inside[at - SIDE] && inside[at + SIDE]) {
                continue;
            }
            let u = (x as f32 + 0.5) / SIDE as f32;
            // The mean of both gradients converges faster than either (Benhimane and Malis, 2004).
            let gx = (factor * slope(q, at - 1, at + 1) + slope(f, at - 1, at + 1)) / 2.0;
            let gy = (factor * slope(q, at - SIDE, at + SIDE) + slope(f, at - SIDE, at + SIDE)) / 2.0;
            let difference = f[at] - factor * q[at];
            let basis = if corners {
                let w = [(1.0 - u) * (1.0 - v), u * (1.0 - v), u * v, (1.0 - u) * v];
                [gx * w[0], gy * w[0], gx * w[1], gy * w[1], gx * w[2], gy * w[2], gx * w[3], gy * w[3]]
            } else {
                [gx * (1.0 - u), gx * u, gy * (1.0 - v), gy * v, 0.0, 0.0, 0.0, 0.0]
            };
            // Both triangles, because whole rows are vectors.
            for i in 0..count {
                right[i] += basis[i] * difference;
                for j in 0..8 {
                    normal[i][j] += basis[i] * basis[j];
                }
            }
        }
    }
    let damping = 0.02 * (0..count).map(|i| normal[i][i]).sum::<f32>() / count as f32 + 1.0;
    (0..count).for_each(|i| normal[i][i] += damping);
    let move_by = solve(&mut normal, right, count)?;
    Some(match corners {
        true => move_by,
        false => {
            let [left, right, top, bottom] = [move_by[0], move_by[1], move_by[2], move_by[3]];
            [left, top, right, top, right, bottom, left, bottom]
        }
    })
}

/// Solves a positive definite system by Cholesky's method; only the lower triangle is read.
fn solve(a: &mut [[f32; 8]; 8], mut b: [f32; 8], count: usize) -> Option<[f32; 8]> {
    for i in 0..count {
        for j in 0..=i {
            let mut sum = a[i][j];
            (0..j).for_each(|k| sum -= a[i][k] * a[j][k]);
            if i == j {
                if sum <= 1e-9 {
                    return None;
                }
                a[i][i] = sum.sqrt();
            } else {
                a[i][j] = sum / a[j][j];
            }
        }
        (0..i).for_each(|k| b[i] -= a[i][k] * b[k]);
        b[i] /= a[i][i];
    }
    for i in (0..count).rev() {
        (i + 1..count).for_each(|k| b[i] -= a[k][i] * b[k]);
        b[i] /= a[i][i];
    }
    Some(b)
}

/// Participation ratio of the energies of 64 blocks: `(Σ e)² / (64 Σ e²)`, 1 if all are equal.
fn spread(values: &[f32]) -> f32 {
    let mut energies = [0.0f32; 64];
    values.iter().enumerate().for_each(|(i, v)| energies[block(i)] += v * v);
    let (sum, squares) = energies.iter().fold((0.0, 0.0), |(sum, squares), e| (sum + e, squares + e * e));
    sum * sum / (64.0 * squares).max(1e-9)
}

/// The block of 4 x 4 cells of a cell.
fn block(cell: usize) -> usize {
    cell / SIDE / 4 * 8 + cell % SIDE / 4
}

/// The correlation without the fifth of the 64 blocks that differ most: what lies over the picture.
fn trimmed(q: &[f32], f: &[f32], inside: &[bool]) -> f32 {
    let (_, factor) = correlation(q, f, inside);
    let mut differences = [0.0f32; 64];
    let mut counts = [0.0f32; 64];
    for i in (0..CELLS).filter(|i| inside[*i]) {
        differences[block(i)] += (f[i] - factor * q[i]).powi(2);
        counts[block(i)] += 1.0;
    }
    let mut order: Vec<usize> = (0..64).filter(|i| counts[*i] > 0.0).collect();
    order.sort_by(|a, b| differences[*b].total_cmp(&differences[*a]));
    let worst = &order[..order.len() / 5];
    let kept: Vec<bool> = (0..CELLS).map(|i| inside[i] && !worst.contains(&block(i))).collect();
    correlation(q, f, &kept).0
}

/// Subtracts from each value the mean of the marked values around it.
fn without_local_mean(values: &[f32], inside: &[bool], blur: usize) -> Vec<f32> {
    let mut sums = vec![(0.0f32, 0.0f32); (SIDE + 1) * (SIDE + 1)];
    for y in 0..SIDE {
        let mut row = (0.0f32, 0.0f32);
        for x in 0..SIDE {
            let at = y * SIDE + x;
            if inside[at] {
                row = (row.0 + values[at], row.1 + 1.0);
            }
            let above = sums[y * (SIDE + 1) + x + 1];
            sums[(y + 1) * (SIDE + 1) + x + 1] = (above.0 + row.0, above.1 + row.1);
        }
    }
    let reach = |at: usize| (at.saturating_sub(blur), (at + blur + 1).min(SIDE));
    let mut out = vec![0.0; CELLS];
    for y in 0..SIDE {
        let (top, bottom) = reach(y);
        for x in 0..SIDE {
            let at = y * SIDE + x;
            let (left, right) = reach(x);
            let corner = |x: usize, y: usize| sums[y * (SIDE + 1) + x];
            let [a, b, c, d] = [corner(right, bottom), corner(left, bottom), corner(right, top), corner(left, top)];
            let (sum, count) = (a.0 - b.0 - c.0 + d.0, a.1 - b.1 - c.1 + d.1);
            out[at] = if inside[at] { values[at] - sum / count.max(1.0) } else { 0.0 };
        }
    }
    out
}

/// Divides each value by the deviation around it, in units of [`FLOOR`], so that one strong edge does not
/// outweigh all other structure.
fn normalised(values: &[f32], inside: &[bool]) -> Vec<f32> {
    let squares: Vec<f32> = values.iter().map(|v| v * v).collect();
    let above_mean = without_local_mean(&squares, inside, BLURS[1]);
    let deviation = |i: usize| (squares[i] - above_mean[i] + FLAT * FLAT).max(FLAT * FLAT).sqrt();
    (0..CELLS).map(|i| if inside[i] { SCALE * values[i] / deviation(i) } else { 0.0 }).collect()
}

/// Weighted means of 3 x 3 cells.
fn smoothed(values: &[f32]) -> Vec<f32> {
    let mut across = vec![0.0; CELLS];
    for (row, out) in values.chunks_exact(SIDE).zip(across.chunks_exact_mut(SIDE)) {
        for x in 0..SIDE {
            out[x] = (row[x.saturating_sub(1)] + 2.0 * row[x] + row[(x + 1).min(SIDE - 1)]) / 4.0;
        }
    }
    let mut out = vec![0.0; CELLS];
    for y in 0..SIDE {
        let (above, below) = (y.saturating_sub(1), (y + 1).min(SIDE - 1));
        for x in 0..SIDE {
            out[y * SIDE + x] =
                (across[above * SIDE + x] + 2.0 * across[y * SIDE + x] + across[below * SIDE + x]) / 4.0;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::seeded::Random;
    use crate::media::Picture;
    use crate::search::align;

    /// Overlapping discs in a frame of 320 x 180.
    fn scene(seed: u64) -> Picture {
        let mut random = Random::new(seed, "scene");
        let discs: Vec<[f32; 4]> = (0..50)
            .map(|_| {
                [
                    random.between(0.0, 320.0),
                    random.between(0.0, 180.0),
                    random.between(8.0, 40.0),
                    random.between(0.0, 255.0),
                ]
            })
            .collect();
        let value = |i: u32| {
            let (x, y) = ((i % 320) as f32, (i / 320) as f32);
            let over = discs.iter().rev().find(|[dx, dy, r, _]| (x - dx).hypot(y - dy) < *r);
            [over.map_or(120.0, |disc| disc[3]) as u8; 3]
        };
        Picture { width: 320, height: 180, rgb: (0..320 * 180).flat_map(value).collect() }
    }

    /// A light picture of 480 x 640 that shows a frame at (80, 200).
    fn page(frame: &Picture) -> Picture {
        let mut page = Picture { width: 480, height: 640, rgb: vec![240; 480 * 640 * 3] };
        for y in 0..180 {
            let (to, from) = (((y + 200) * 480 + 80) * 3, y * 320 * 3);
            page.rgb[to..to + 960].copy_from_slice(&frame.rgb[from..from + 960]);
        }
        page
    }

    const TRUTH: Quad = [[80.0, 200.0], [400.0, 200.0], [400.0, 380.0], [80.0, 380.0]];

    fn align(pyramid: &Pyramid, start: Quad, frame: &FrameSketch) -> Alignment {
        align_corners(pyramid, align_sides(pyramid, start, frame).0, frame)
    }

    #[test]
    fn moves_the_corners_to_the_frame() {
        let frame = scene(1);
        let pyramid = Pyramid::of(page(&frame).view());
        let target = FrameSketch::of(&align::sketch(&frame));
        for start in [
            TRUTH,
            [[62.0, 188.0], [388.0, 188.0], [388.0, 366.0], [62.0, 366.0]],
            [[70.0, 192.0], [412.0, 205.0], [396.0, 392.0], [88.0, 376.0]],
        ] {
            let found = align(&pyramid, start, &target);
            let off = |i: usize| (found.quad[i][0] - TRUTH[i][0]).hypot(found.quad[i][1] - TRUTH[i][1]);
            let farthest = (0..4).map(off).fold(0.0, f32::max);
            // A cell of the sketch is 10 x 5.6 pixels.
            assert!(farthest < 8.0 && found.structure > 0.85 && found.inside == 1.0, "{start:?}: {found:?}");
        }
    }

    #[test]
    fn another_frame_does_not_fit() {
        let pyramid = Pyramid::of(page(&scene(1)).view());
        for seed in 2..8 {
            let found = align(&pyramid, TRUTH, &FrameSketch::of(&align::sketch(&scene(seed))));
            assert!(found.structure < 0.6, "{seed}: {found:?}");
        }
    }

    #[test]
    fn a_frame_of_one_edge_has_less_spread() {
        let edge = |i: u32| if i % 320 < 150 { [30; 3] } else { [200; 3] };
        let plain = Picture { width: 320, height: 180, rgb: (0..320 * 180).flat_map(edge).collect() };
        let spread = |frame: &Picture| {
            align(&Pyramid::of(page(frame).view()), TRUTH, &FrameSketch::of(&align::sketch(frame))).spread
        };
        let (simple, rich) = (spread(&plain), spread(&scene(1)));
        assert!(simple < 0.3 && rich > 0.5, "{simple} {rich}");
    }

    #[test]
    fn flat_pictures_and_sketches_align_without_a_correlation() {
        let flat = Picture { width: 64, height: 64, rgb: vec![128; 64 * 64 * 3] };
        let quad = [[0.0, 0.0], [64.0, 0.0], [64.0, 64.0], [0.0, 64.0]];
        for frame in [FrameSketch::of(&[7; CELLS]), FrameSketch::of(&align::sketch(&scene(1)))] {
            let found = align(&Pyramid::of(flat.view()), quad, &frame);
            assert!(found.structure.abs() < 0.1 && found.quad == quad, "{found:?}");
        }
    }
}
