//! Finds the frame of a video inside a query picture: in an app, on a page, on a screen, turned.
//!
//! Parts of the picture are proposed (`proposals`), embedded and searched for one by one. The frames of the
//! nearest rows are then aligned with the picture (`refine`), and the correlation decides.

mod proposals;
pub(super) mod refine;
mod warp;

use std::collections::{BTreeMap, HashMap, HashSet};

use rayon::prelude::*;
use reelseek_index::{Effort, Hit, Searcher, VideoNumber, VideoSet};

use super::{QueryRegion, align, go_on, rank};
use crate::base::Cancel;
use crate::collection::{Calibration, Error, Model};
use crate::encode;
use crate::media::PictureView;
use refine::{Alignment, FrameSketch, UnalignedPatch};
use warp::{Pyramid, Quad};

/// Number of upright rectangles and of other quadrilaterals that are proposed.
const PROPOSED: [usize; 2] = [28, 24];
/// Number of best proposals that are searched for mirrored as well.
const MIRRORED: usize = 12;
/// Rows fetched for each part.
const ROWS: usize = 24;
/// Number of pairs of a part and a row whose sides are aligned.
const PAIRS: usize = 64;
/// Number of best ones of them whose corners are aligned.
const FULLY_ALIGNED: usize = 32;
/// Largest number of them for one video.
const ALIGNED_PER_VIDEO: usize = 8;
/// Weight of the correlation before the alignment, in the choice of these pairs.
const UNALIGNED: f32 = 0.6;
/// Weight of the correlation after the alignment of the sides, in the choice of the latter.
const ALIGNED: f32 = 0.6;
/// Shapes of videos: width divided by height.
const SHAPES: [f32; 2] = [16.0 / 9.0, 4.0 / 3.0];
/// Positions of a cut of the height of the frame.
const CUTS: usize = 5;
/// Most steps along the longer side of the picture.
const MOST_STEPS: f32 = 8.0;
/// Shares of the sides of parts around the middle.
const MIDDLES: [f32; 3] = [0.9, 0.8, 0.66];
/// Side of the copy of a part that is embedded.
const PART_SIDE: usize = 64;

/// Weight of the cosine in the evidence.
const COSINE: f32 = 1.5;
/// Weight of the structure.
const STRUCTURE: f32 = 0.5;
/// Weight of the structure for a cut, whose embedding lacks a part of the frame.
const STRUCTURE_OF_CUT: f32 = 1.2;
/// Cost of a cut.
const CUT: f32 = 0.35;
/// Spread of the structure from which it counts in full: a few edges fit many pictures.
const FULL_SPREAD: f32 = 0.35;
/// Weight of the logarithm of the part's area in shares of the picture.
const AREA: f32 = 0.05;
/// Cost of the share of a frame that the picture does not show.
const OUTSIDE: f32 = 0.2;
/// Cost of the hidden share of a frame whose part was proposed inside the picture: its sides were seen.
const LOST: f32 = 1.0;
/// Cost of the longest move of a corner of such a part.
const MOVED: f32 = 0.8;
/// Deviations above the median of unrelated pictures from which the size of a frame begins to count, and from
/// which it counts in full.
const SURE_DEVIATIONS: [f64; 2] = [3.0, 4.5];
/// Weight of the evidence above.
const ABOVE_SURE: f32 = 0.1;
/// Weight of the size, as the side of a square in shares of the picture.
const SIZE: f32 = 0.5;
/// Weight of the position: 1 at the top, 0 at the bottom.
const UPPER: f32 = 0.25;

/// A frame that was found in a part of the picture.
#[derive(Debug, Clone)]
pub(crate) struct FoundPart {
    pub(crate) hit: Hit,
    pub(crate) region: QueryRegion,
    /// The embedding of the part.
    pub(crate) embedding: Vec<f32>,
    /// Determines the order of parts (see [`evidence`]). Its distribution differs from that of whole
    /// pictures.
    pub(crate) evidence: f32,
}

/// A part that is searched for.
#[derive(Debug, Clone, Copy)]
struct Hypothesis {
    quad: Quad,
    mirrored: bool,
}

/// A part that was searched for.
struct SearchedPart {
    quad: Quad,
    embedding: Vec<f32>,
    patch: UnalignedPatch,
    hits: Vec<Hit>,
}

/// What is searched, and how.
#[derive(Clone, Copy)]
pub(crate) struct PartSearch<'a> {
    pub(crate) searcher: &'a Searcher,
    pub(crate) model: &'a Model,
    pub(crate) among: Option<&'a VideoSet>,
    pub(crate) effort: Effort,
    pub(crate) cancel: &'a Cancel,
}

/// Position of a row: its video, and its number in the video.
type RowKey = (VideoNumber, u32);

impl PartSearch<'_> {
    /// The frames that fit a part of the picture, best first. Each row is found at most once.
    pub(crate) fn find(&self, picture: PictureView<'_>) -> Result<Vec<FoundPart>, Error> {
        let pyramid = Pyramid::of(picture);
        let hypotheses = hypotheses(&pyramid);
        let searched = hypotheses.par_iter().map(|hypothesis| self.search(&pyramid, *hypothesis));
        let searched: Vec<SearchedPart> = searched.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
        let frames = self.frames(&searched)?;
        let pairs = candidates(&searched, &frames);
        let sides = pairs.par_iter().map(|(part, hit)| {
            go_on(self.cancel)?;
            let (quad, correlation) = refine::align_sides(&pyramid, part.quad, &frames[&(hit.video, hit.nth)]);
            Ok((hit.score + ALIGNED * correlation, quad, *part, *hit))
        });
        let mut sides = sides.collect::<Result<Vec<_>, Error>>()?;
        sides.sort_by(|a, b| b.0.total_cmp(&a.0));
        sides.truncate(FULLY_ALIGNED);
        let aligned = sides.into_par_iter().map(|(_, quad, part, hit)| {
            go_on(self.cancel)?;
            let alignment = refine::align_corners(&pyramid, quad, &frames[&(hit.video, hit.nth)]);
            Ok((evidence(&pyramid, part, hit, &alignment), alignment, part, hit))
        });
        let mut aligned = aligned.collect::<Result<Vec<_>, Error>>()?;
        aligned.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut seen = HashSet::new();
        aligned.retain(|(_, _, _, hit)| seen.insert((hit.video, hit.nth)));
        let costs = self.shared_costs(aligned.iter().map(|(_, _, _, hit)| *hit))?;
        let found = aligned.into_iter().map(|(evidence, alignment, part, hit)| FoundPart {
            hit: *hit,
            region: region(alignment.quad, pyramid.size()),
            embedding: part.embedding.clone(),
            evidence: evidence - costs[&(hit.video, hit.nth)],
        });
        let mut found: Vec<FoundPart> = found.collect();
        found.sort_by(|a, b| b.evidence.total_cmp(&a.evidence));
        Ok(found)
    }

    /// Embeds a part and searches for it. `None` if the part is flat.
    fn search(&self, pyramid: &Pyramid, hypothesis: Hypothesis) -> Result<Option<SearchedPart>, Error> {
        go_on(self.cancel)?;
        let encoder = self.model.encoder.as_ref();
        let part = pyramid.part(hypothesis.quad, PART_SIDE);
        let fitted = encode::fit(part.view(), &encoder.info().sampling);
        let described = encoder.describe(&[fitted])?.pop().filter(|descriptor| !descriptor.is_flat());
        let (descriptor, quad) = match (described, hypothesis.mirrored) {
            (Some(descriptor), false) => (descriptor, hypothesis.quad),
            (Some(descriptor), true) => match encoder.mirrored(&descriptor) {
                Some(mirrored) => (mirrored, [1, 0, 3, 2].map(|i| hypothesis.quad[i])),
                None => return Ok(None),
            },
            (None, _) => return Ok(None),
        };
        let embedding = self.model.checkpoint.embed_image(&encoder.image(&descriptor)?)?;
        let hits = self.searcher.search(&embedding, ROWS, self.among, self.effort)?;
        Ok(Some(SearchedPart { quad, embedding, patch: UnalignedPatch::of(pyramid, &quad), hits }))
    }

    /// What each row loses because other videos contain its frame.
    fn shared_costs<'a>(&self, hits: impl Iterator<Item = &'a Hit>) -> Result<HashMap<RowKey, f32>, Error> {
        let mut videos: BTreeMap<VideoNumber, Vec<(u32, Vec<u8>)>> = BTreeMap::new();
        for hit in hits {
            let sketch = self.searcher.sketch_of(hit)?.unwrap_or_default();
            videos.entry(hit.video).or_default().push((hit.nth, sketch));
        }
        let keys: Vec<RowKey> =
            videos.iter().flat_map(|(video, rows)| rows.iter().map(|(nth, _)| (*video, *nth))).collect();
        let sketches: Vec<Vec<Vec<u8>>> =
            videos.into_values().map(|rows| rows.into_iter().map(|(_, sketch)| sketch).collect()).collect();
        Ok(keys.into_iter().zip(rank::shared_costs(&sketches).into_iter().flatten()).collect())
    }

    /// The sketches of all rows that were found.
    fn frames(&self, searched: &[SearchedPart]) -> Result<HashMap<RowKey, FrameSketch>, Error> {
        let hits = searched.iter().flat_map(|part| &part.hits);
        let distinct: HashMap<RowKey, &Hit> = hits.map(|hit| ((hit.video, hit.nth), hit)).collect();
        let frames = distinct.into_par_iter().map(|(key, hit)| {
            let sketch = self.searcher.sketch_of(hit)?.filter(|sketch| sketch.len() == align::BYTES);
            Ok(sketch.map(|sketch| (key, FrameSketch::of(&sketch))))
        });
        Ok(frames.collect::<Result<Vec<_>, Error>>()?.into_iter().flatten().collect())
    }
}

/// The pairs of a part and a row that are aligned: those of the best cosine and correlation.
fn candidates<'a>(
    searched: &'a [SearchedPart],
    frames: &HashMap<RowKey, FrameSketch>,
) -> Vec<(&'a SearchedPart, &'a Hit)> {
    let all: Vec<(&SearchedPart, &Hit)> =
        searched.iter().flat_map(|part| part.hits.iter().map(move |hit| (part, hit))).collect();
    let scored = all.into_par_iter().filter_map(|(part, hit)| {
        let frame = frames.get(&(hit.video, hit.nth))?;
        Some((hit.score + UNALIGNED * part.patch.correlation(frame), part, hit))
    });
    let mut scored: Vec<(f32, &SearchedPart, &Hit)> = scored.collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut counts: HashMap<VideoNumber, usize> = HashMap::new();
    let few = |hit: &Hit, counts: &mut HashMap<VideoNumber, usize>| {
        let count = counts.entry(hit.video).or_default();
        *count += 1;
        *count <= ALIGNED_PER_VIDEO
    };
    let kept = scored.into_iter().filter(|(_, _, hit)| few(hit, &mut counts));
    kept.take(PAIRS).map(|(_, part, hit)| (part, hit)).collect()
}

/// The evidence that a part shows the frame of a row: the cosine and the correlation of the structure, plus
/// the logarithm of the area, minus what the alignment had to change.
fn evidence(pyramid: &Pyramid, part: &SearchedPart, hit: &Hit, alignment: &Alignment) -> f32 {
    let [width, height] = pyramid.size();
    let share = (warp::area(&alignment.quad).abs() / (width * height)).min(1.0);
    let hidden = 1.0 - alignment.inside;
    let structure = alignment.structure * (alignment.spread / FULL_SPREAD).min(1.0).sqrt();
    let within = |at: f32, side: f32| (-0.02 * side..=1.02 * side).contains(&at);
    let change = if part.quad.iter().all(|[x, y]| within(*x, width) && within(*y, height)) {
        let moves = part.quad.iter().zip(&alignment.quad).map(|(a, b)| (a[0] - b[0]).hypot(a[1] - b[1]));
        let longest = moves.fold(0.0, f32::max) / warp::area(&part.quad).abs().max(1.0).sqrt();
        STRUCTURE * structure - LOST * (hidden - 0.02).max(0.0) - MOVED * longest
    } else {
        STRUCTURE_OF_CUT * structure - CUT
    };
    COSINE * hit.score + change + AREA * (share + 1e-3).ln() - OUTSIDE * hidden
}

/// Evidence by which the main frame of a picture with several frames ranks first: the larger one, and of two
/// equally large ones the upper one. It differs from `evidence` only where that is nearly certain.
pub(crate) fn prominent(calibration: &Calibration, evidence: f32, region: &QueryRegion, size: [u32; 2]) -> f32 {
    let [unsure, sure] = SURE_DEVIATIONS.map(|z| calibration.evidence_at(z));
    if evidence <= unsure {
        return evidence;
    }
    let [width, height] = size.map(|side| side as f32);
    let share = (warp::area(&region.corners).abs() / (width * height)).min(1.0);
    let [_, top, _, bottom] = region.bounds();
    let position = 1.0 - (top + bottom) / (2.0 * height);
    let part = ((evidence - unsure) / (sure - unsure)).min(1.0);
    evidence.min(sure) + ABOVE_SURE * (evidence - sure).max(0.0) + part * (SIZE * share.sqrt() + UPPER * position)
}

/// All parts that are searched for.
fn hypotheses(pyramid: &Pyramid) -> Vec<Hypothesis> {
    let [w, h] = pyramid.size();
    let whole: Quad = [[0.0, 0.0], [w, 0.0], [w, h], [0.0, h]];
    let rectangle = |x: f32, y: f32, w: f32, h: f32| [[x, y], [x + w, y], [x + w, y + h], [x, y + h]];
    let mut quads: Vec<Quad> = Vec::new();
    // The picture in the three other orientations.
    quads.extend([1, 2, 3].map(|turn| [0, 1, 2, 3].map(|i| whole[(i + turn) % 4])));
    let proposals = proposals::proposals(pyramid, PROPOSED[0], PROPOSED[1]);
    let mirrored: Vec<Quad> = proposals.iter().take(MIRRORED).copied().collect();
    quads.extend(proposals);
    for aspect in SHAPES {
        // Parts of the full width or height.
        let (part_w, part_h) = if w / h < aspect { (w, w / aspect) } else { (h * aspect, h) };
        let room = (w - part_w).max(h - part_h);
        if room < 0.02 * w.max(h) {
            // This part is the whole picture, which is searched for already.
            continue;
        }
        let steps = (room / (0.25 * part_h.min(part_w))).ceil().min(MOST_STEPS) as usize;
        quads.extend((0..=steps).map(|i| {
            let at = i as f32 / steps.max(1) as f32;
            rectangle((w - part_w) * at, (h - part_h) * at, part_w, part_h)
        }));
        // The picture as an upright cut of a wider frame.
        let frame = h * aspect;
        if w < 0.8 * frame {
            quads.extend((0..CUTS).map(|i| rectangle((w - frame) * i as f32 / (CUTS - 1) as f32, 0.0, frame, h)));
        }
    }
    // Parts around the middle.
    let middle = |share: f32| {
        let edge = (1.0 - share) / 2.0;
        rectangle(w * edge, h * edge, w * share, h * share)
    };
    quads.extend(MIDDLES.map(middle));
    let plain = quads.into_iter().map(|quad| Hypothesis { quad, mirrored: false });
    plain.chain(mirrored.into_iter().map(|quad| Hypothesis { quad, mirrored: true })).collect()
}

/// The region of a quadrilateral, whose order of corners gives turn and mirroring. What is outside of the
/// picture is left out.
fn region(quad: Quad, [width, height]: [f32; 2]) -> QueryRegion {
    let mirrored = warp::area(&quad) < 0.0;
    let clockwise = if mirrored { [1, 0, 3, 2].map(|i| quad[i]) } else { quad };
    let sum = |i: &usize| clockwise[*i][0] + clockwise[*i][1];
    let first = (0..4).min_by(|a, b| sum(a).total_cmp(&sum(b))).unwrap_or(0);
    let corner = |i: usize| {
        let [x, y] = clockwise[(first + i) % 4];
        [x.clamp(0.0, width), y.clamp(0.0, height)]
    };
    // If the frame's first corner is the second one of the picture, the frame is rotated by 90 degrees.
    QueryRegion { corners: [0, 1, 2, 3].map(corner), turn: [0, 270, 180, 90][first], mirrored }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collection::EvidenceKind;

    #[test]
    fn the_order_of_corners_gives_turn_and_mirroring() {
        let upright: Quad = [[10.0, 20.0], [90.0, 20.0], [90.0, 60.0], [10.0, 60.0]];
        let size = [100.0, 100.0];
        let plain = region(upright, size);
        assert_eq!((plain.corners, plain.turn, plain.mirrored), (upright, 0, false));
        for (first, turn) in [(1, 90), (2, 180), (3, 270)] {
            let turned = region([0, 1, 2, 3].map(|i| upright[(i + first) % 4]), size);
            assert_eq!((turned.corners, turned.turn, turned.mirrored), (upright, turn, false));
        }
        let mirrored = region([1, 0, 3, 2].map(|i| upright[i]), size);
        assert_eq!((mirrored.corners, mirrored.turn, mirrored.mirrored), (upright, 0, true));
    }

    #[test]
    fn a_region_ends_at_the_sides_of_the_picture() {
        let wide: Quad = [[-50.0, 0.0], [150.0, 0.0], [150.0, 100.0], [-50.0, 100.0]];
        assert_eq!(region(wide, [100.0, 100.0]).corners, [[0.0, 0.0], [100.0, 0.0], [100.0, 100.0], [0.0, 100.0]]);
    }

    #[test]
    fn the_larger_and_the_upper_one_of_two_certain_frames_is_more_prominent() {
        let calibration = Calibration::fit(Vec::new(), EvidenceKind::Frames);
        let [unsure, certain] = [2.0, 6.0].map(|z| calibration.evidence_at(z));
        let at = |evidence: f32, x: f32, y: f32, side: f32| {
            let region = QueryRegion::rectangle([x, y, x + side, y + side], false);
            prominent(&calibration, evidence, &region, [1000, 1000])
        };
        assert!(at(certain, 0.0, 300.0, 500.0) > at(1.1 * certain, 0.0, 300.0, 200.0), "the larger one");
        assert!(at(certain, 0.0, 100.0, 400.0) > at(1.1 * certain, 0.0, 550.0, 400.0), "the upper one");
        assert!(at(certain, 0.0, 600.0, 200.0) > at(unsure, 0.0, 0.0, 1000.0), "the certain one");
        assert_eq!(at(unsure, 0.0, 0.0, 1000.0), unsure);
    }

    #[test]
    fn hypotheses_are_bounded_for_any_shape() {
        for (width, height) in [(1, 1), (1, 5000), (5000, 1), (640, 360), (1080, 2400)] {
            let rgb = (0..width * height * 3).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            let picture = crate::media::Picture { width, height, rgb };
            let count = hypotheses(&Pyramid::of(picture.view())).len();
            assert!((3..=120).contains(&count), "{width} x {height}: {count}");
        }
    }
}
