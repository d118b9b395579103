//! Measuring how well foreign pictures score on an index.

use reelseek_index::{Effort, Index, Searcher, VideoSet, Writer};

use super::Error;
use crate::search::{Calibration, Measured, State};

/// Probes searched for.
const MAX_PROBES: usize = 256;

/// Publishes `state`, with a calibration that belongs to the index as it is committed now. Nothing is measured or
/// written if what the index has is of today.
///
/// # Errors
/// [`Error::Index`] if the index cannot be read or written.
pub fn calibrate(index: &Index, writer: &mut Writer, mut state: State) -> Result<(), Error> {
    let searcher = index.searcher()?;
    let numbers = searcher.video_numbers();
    // Numbers are never used again: the newest and their count name exactly these videos.
    let on = Measured { newest: numbers.last().map_or(0, |n| n.0), videos: numbers.len() };
    if state.measured != Some(on) {
        state.calibration = Calibration::fit(null_scores(&searcher)?);
        state.measured = Some(on);
    }
    if state != State::of(&searcher) {
        writer.set_state(state.to_json());
        writer.commit()?;
    }
    Ok(())
}

/// The best score of one frame of each video (of at most 256 of them), its own video left out.
fn null_scores(searcher: &Searcher) -> Result<Vec<f32>, Error> {
    let dim = searcher.settings().dim;
    let numbers = searcher.video_numbers();
    let mut best = Vec::new();
    if numbers.len() < 2 {
        return Ok(best);
    }
    let step = numbers.len().div_ceil(MAX_PROBES);
    for own in numbers.iter().copied().step_by(step) {
        let probe = searcher.video(own)?.probe;
        let foreign: VideoSet = numbers.iter().copied().filter(|n| *n != own).collect();
        let mut highest: Option<f32> = None;
        for view in probe.chunks_exact(dim) {
            for hit in searcher.search(view, 1, Some(&foreign), Effort::Exact)? {
                highest = Some(highest.map_or(hit.score, |h| h.max(hit.score)));
            }
        }
        best.extend(highest);
    }
    Ok(best)
}
