//! Measures the scores that unrelated pictures reach on an index.

use rayon::prelude::*;
use reelseek_index::{Effort, Searcher, VideoNumber, VideoSet, Writer};

use super::Error;
use crate::base::Cancel;
use crate::base::seeded::Random;
use crate::collection::{CalibratedOn, Calibration, Collection, CollectionState, EvidenceKind, Model};
use crate::media::Picture;
use crate::search::{PartSearch, PreparedQuery, QueryView, align, rank};

/// Largest number of probes that are searched for.
const MAX_PROBES: usize = 256;
/// Largest number of them that are searched for in a surround, which takes longer.
const MAX_FRAMED: usize = 32;

/// Publishes `state` with a calibration of the last commit. Measures only if the videos differ from those of
/// the calibration in `state`, and commits only if the state differs from the stored one. Without a model,
/// the distribution for parts of pictures is removed, and the next run with a model measures it.
///
/// # Errors
/// [`Error::Collection`] if the index cannot be read or written.
pub fn calibrate(
    collection: &Collection,
    writer: &mut Writer,
    mut state: CollectionState,
    model: Option<&Model>,
) -> Result<(), Error> {
    let searcher = collection.searcher()?;
    let lacks_parts = state.of_parts.is_none() && model.is_some_and(|model| has_parts(&searcher, model));
    if state.measured != Some(measured(&searcher)) || state.by_cosine.is_none() || lacks_parts {
        measure(&searcher, &mut state, model)?;
    }
    publish(&searcher, writer, &state)
}

/// Calibrates during a run if the index has at least twice as many videos as its calibration covers, so that
/// searches during the run have useful confidences.
///
/// # Errors
/// As [`calibrate`].
pub(super) fn calibrate_if_outgrown(
    collection: &Collection,
    writer: &mut Writer,
    state: &mut CollectionState,
    model: &Model,
) -> Result<(), Error> {
    let searcher = collection.searcher()?;
    let before = state.measured.map_or(0, |measured| measured.videos);
    if measured(&searcher).videos < 2 * before.max(1) {
        return Ok(());
    }
    measure(&searcher, state, Some(model))?;
    publish(&searcher, writer, state)
}

/// Identifies the set of videos by its highest number and its size, because numbers are never reused.
fn measured(searcher: &Searcher) -> CalibratedOn {
    let numbers = searcher.video_numbers();
    CalibratedOn { newest: numbers.last().map_or(0, |n| n.0), videos: numbers.len() }
}

/// Whether parts of pictures are searched for in this index.
fn has_parts(searcher: &Searcher, model: &Model) -> bool {
    searcher.settings().sketch as usize == align::BYTES && model.encoder.info().same_scene
}

fn measure(searcher: &Searcher, state: &mut CollectionState, model: Option<&Model>) -> Result<(), Error> {
    let (evidence, cosines) = null_scores(searcher)?.into_iter().unzip();
    let kind = if searcher.settings().sketch > 0 { EvidenceKind::Frames } else { EvidenceKind::Cosine };
    state.calibration = Some(Calibration::fit(evidence, kind));
    state.by_cosine = Some(Calibration::fit(cosines, EvidenceKind::Cosine));
    // Without a model, the next run with one measures it.
    state.of_parts = match model.filter(|model| has_parts(searcher, model)) {
        Some(model) => Some(Calibration::fit(null_scores_of_parts(searcher, model)?, EvidenceKind::Parts)),
        None => None,
    };
    state.measured = Some(measured(searcher));
    Ok(())
}

fn publish(searcher: &Searcher, writer: &mut Writer, state: &CollectionState) -> Result<(), Error> {
    if *state != CollectionState::of(searcher) {
        writer.set_state(state.to_json());
        writer.commit()?;
    }
    Ok(())
}

/// The best evidence and the best cosine of one frame of each video (256 videos at most), among the other
/// videos.
fn null_scores(searcher: &Searcher) -> Result<Vec<(f32, f32)>, Error> {
    let dim = searcher.settings().dim;
    let numbers = searcher.video_numbers();
    if numbers.len() < 2 {
        return Ok(Vec::new());
    }
    let step = numbers.len().div_ceil(MAX_PROBES);
    let probes: Vec<VideoNumber> = numbers.iter().copied().step_by(step).collect();
    let best = probes.par_iter().map(|own| -> Result<Option<(f32, f32)>, Error> {
        let probe = searcher.video(*own)?.probe;
        let view = |(i, embedding): (usize, &[f32])| {
            let mirrored = i % 2 == 1;
            QueryView { embedding: embedding.to_vec(), mirrored, region: None }
        };
        let views: Vec<QueryView> = probe.chunks_exact(dim).enumerate().map(view).collect();
        let templates = match views.first() {
            Some(view) => sketch_at(searcher, *own, &view.embedding)?.as_ref().map(align::QueryTemplates::new),
            None => None,
        };
        let foreign: VideoSet = numbers.iter().copied().filter(|n| n != own).collect();
        // A query by vector has one view, which is not mirrored.
        let plain = views.first().map(|view| searcher.search(&view.embedding, 1, Some(&foreign), Effort::Exact));
        let cosine = plain.transpose()?.and_then(|hits| Some(hits.first()?.score));
        let best = rank(searcher, &PreparedQuery { views, templates }, 1, Some(&foreign), Effort::Exact)?;
        Ok(best.first().map(|rows| rows[0].evidence).zip(cosine))
    });
    Ok(best.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

/// The best evidence of one frame of each video (32 videos at most), drawn as a part of a picture, among the
/// other videos.
fn null_scores_of_parts(searcher: &Searcher, model: &Model) -> Result<Vec<f32>, Error> {
    let numbers = searcher.video_numbers();
    if numbers.len() < 2 {
        return Ok(Vec::new());
    }
    let probes: Vec<VideoNumber> = numbers.iter().copied().step_by(numbers.len().div_ceil(MAX_FRAMED)).collect();
    let dim = searcher.settings().dim;
    let best = probes.iter().map(|own| -> Result<Option<f32>, Error> {
        let video = searcher.video(*own)?;
        let Some(view) = video.probe.get(..dim) else { return Ok(None) };
        let Some(frame) = sketch_at(searcher, *own, view)? else { return Ok(None) };
        let picture = framed(&frame, &mut Random::new(0, &video.id));
        let foreign: VideoSet = numbers.iter().copied().filter(|n| n != own).collect();
        let cancel = Cancel::default();
        let search = PartSearch { searcher, model, among: Some(&foreign), effort: Effort::Default, cancel: &cancel };
        Ok(search.find(picture.view())?.first().map(|found| found.evidence))
    });
    Ok(best.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

/// A frame as an app on a phone shows it: on a plain ground, with lines below that look like text.
fn framed(frame: &Picture, random: &mut Random) -> Picture {
    let (width, height) = (540, 900 + random.up_to(300));
    let (ground, ink) = random.either((250, 60), (12, 210));
    let mut picture = Picture { width, height, rgb: vec![ground; (width * height * 3) as usize] };
    let shown = frame.resize(width, width * 9 / 16);
    let top = random.up_to(height - shown.height - 160);
    let start = (top * width * 3) as usize;
    picture.rgb[start..start + shown.rgb.len()].copy_from_slice(&shown.rgb);
    for line in 0..4 {
        let first = top + shown.height + 24 + line * 30;
        let end = 60 + random.up_to(width - 80);
        for y in first..first + 10 {
            for x in (20..end).filter(|x| x / 6 % 4 != 0) {
                let at = ((y * width + x) * 3) as usize;
                picture.rgb[at..at + 3].fill(ink);
            }
        }
    }
    picture
}

/// The sketch of the row that is nearest to a view of the video's probe, as a picture.
fn sketch_at(searcher: &Searcher, video: VideoNumber, view: &[f32]) -> Result<Option<Picture>, Error> {
    if searcher.settings().sketch as usize != align::BYTES {
        return Ok(None);
    }
    let own: VideoSet = std::iter::once(video).collect();
    let Some(row) = searcher.search(view, 1, Some(&own), Effort::Exact)?.into_iter().next() else { return Ok(None) };
    let sketch = searcher.sketch_of(&row)?.unwrap_or_default();
    // Enlarged to twice the size without smoothing, so that it is as sharp as a frame.
    let side = 2 * align::SIDE;
    let luma = |i: usize| sketch.get(i / side / 2 * align::SIDE + i % side / 2).copied();
    let rgb: Option<Vec<[u8; 3]>> = (0..side * side).map(|i| luma(i).map(|luma| [luma; 3])).collect();
    Ok(rgb.and_then(|rgb| Picture::new(side as u32, side as u32, rgb.concat())))
}
