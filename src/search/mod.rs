//! A picture in, moments out: views of the query, over-fetch, group by video, join rows into moments, confidence.

pub mod align;
mod calibration;
mod moment;
mod state;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use reelseek_index::{Effort, Hit, Index, Searcher, VideoNumber, VideoSet};
use thiserror::Error;

pub use calibration::Calibration;
pub use moment::Moment;
pub use state::{Failure, Measured, State};

use crate::encode::{self, Encoder};
use crate::gmf::{self, Folded};
use crate::media::{self, Picture};

/// Names of the index attributes that tie it to an encoder and a checkpoint.
pub const ENCODER: &str = "encoder";
/// See [`ENCODER`].
pub const CHECKPOINT: &str = "checkpoint";
/// Name of the index attribute that says where the encoder's weights were, if they were named.
pub const WEIGHTS: &str = "weights";
/// The checkpoint that an index was made with, in its folder, if that is not the embedded one.
pub const CHECKPOINT_FILE: &str = "checkpoint.safetensors";

/// Rows fetched for each video wanted: a video answers with several neighbouring rows.
const OVERFETCH: usize = 16;

/// Why a query could not be answered.
#[derive(Debug, Error)]
pub enum Error {
    /// The picture could not be read.
    #[error(transparent)]
    Media(#[from] media::Error),
    /// The index could not be read or the filter is wrong.
    #[error(transparent)]
    Index(#[from] reelseek_index::Error),
    /// Encoder and checkpoint do not fit.
    #[error(transparent)]
    Checkpoint(#[from] gmf::Error),
    /// The encoder is not known.
    #[error(transparent)]
    Encoder(#[from] encode::Error),
    /// The index was made with other weights.
    #[error(
        "the index was made with {what} {found}, but {given} is in use; search with the one it was made with, or index again into another folder"
    )]
    Mismatch {
        /// `encoder` or `checkpoint`.
        what: &'static str,
        /// Recorded in the index.
        found: String,
        /// In use now.
        given: String,
    },
}

/// What a search shall return.
#[derive(Debug, Clone)]
pub struct Options {
    /// Videos at most.
    pub top: usize,
    /// Only videos that this query of the index's text fields accepts.
    pub filter: Option<String>,
    /// Only answers of at least this confidence.
    pub min_confidence: f32,
    /// How hard the index looks.
    pub effort: Effort,
}

impl Default for Options {
    fn default() -> Options {
        Options { top: 10, filter: None, min_confidence: 0.0, effort: Effort::Default }
    }
}

/// One answer: a video and the moment in it.
#[derive(Debug, Clone)]
pub struct Found {
    /// The video.
    pub video: reelseek_index::Video,
    /// Cosine of the query's best view and the moment's best row.
    pub score: f32,
    /// See [`Calibration::confidence`].
    pub confidence: f32,
    /// The moment, in milliseconds from the first frame.
    pub moment: Moment,
}

/// The answers to one query.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Best first.
    pub found: Vec<Found>,
    /// Whether every row was compared, so that nothing can have been missed.
    pub exact: bool,
    /// Time from picture to answer.
    pub took: std::time::Duration,
}

/// Everything a query needs, on one snapshot of an index.
pub struct Engine {
    searcher: Searcher,
    encoder: Arc<dyn Encoder>,
    checkpoint: Folded,
    calibration: Calibration,
}

impl Engine {
    /// Opens an index with the encoder and the checkpoint that it was made with: those that it remembers, or the ones named.
    ///
    /// # Errors
    /// [`Error::Index`] if there is no sound index; [`Error::Encoder`] if its encoder is not here; [`Error::Mismatch`] if it was made with other weights.
    pub fn open(index: &Path, checkpoint: Option<&Path>, weights: Option<&Path>) -> Result<Engine, Error> {
        let searcher = Index::open(index)?.searcher()?;
        let attributes = &searcher.settings().attributes;
        let own = index.join(CHECKPOINT_FILE);
        let checkpoint = match checkpoint {
            Some(path) => Folded::open(path)?,
            None if own.exists() => Folded::open(&own)?,
            None => Folded::embedded(),
        };
        let weights = weights.map(Path::to_owned).or_else(|| attributes.get(WEIGHTS).map(PathBuf::from));
        let id = attributes.get(ENCODER).map_or(encode::layout::ID, String::as_str);
        let encoder = encode::open_as(id, weights.as_deref(), "the index")?;
        let given = checkpoint.fingerprint();
        if let Some(found) = attributes.get(CHECKPOINT).filter(|found| **found != given) {
            return Err(Error::Mismatch { what: CHECKPOINT, found: found.clone(), given });
        }
        checkpoint.expect_encoder(id, "in use")?;
        Ok(Engine::new(searcher, encoder, checkpoint))
    }

    /// An engine from its parts.
    pub fn new(searcher: Searcher, encoder: Arc<dyn Encoder>, checkpoint: Folded) -> Engine {
        let calibration = State::of(&searcher).calibration;
        Engine { searcher, encoder, checkpoint, calibration }
    }

    /// The snapshot that is searched.
    pub fn searcher(&self) -> &Searcher {
        &self.searcher
    }

    /// Searches for the videos that show what the picture shows. A flat picture (all black, say) finds nothing.
    ///
    /// # Errors
    /// [`Error::Index`] if the filter cannot be understood or the index is damaged.
    pub fn search(&self, picture: &Picture, options: &Options) -> Result<Answer, Error> {
        let filter = options.filter.as_deref().map(|f| self.searcher.filter(f)).transpose()?;
        self.search_among(picture, options, filter.as_ref())
    }

    /// As [`Engine::search`], among these videos in place of those that `options.filter` accepts.
    ///
    /// # Errors
    /// As [`Engine::search`].
    pub fn search_among(
        &self,
        picture: &Picture,
        options: &Options,
        among: Option<&VideoSet>,
    ) -> Result<Answer, Error> {
        let start = Instant::now();
        let views = views(picture, self.encoder.as_ref(), &self.checkpoint)?;
        let mut found = Vec::new();
        for best in self.best_rows(&views, options, among)? {
            let confidence = self.calibration.confidence(best.hit.score);
            if best.hit.score <= 0.0 || confidence < options.min_confidence {
                continue;
            }
            let Some((spans, vectors)) = self.searcher.rows_of(best.hit.video)? else { continue };
            found.push(Found {
                video: self.searcher.video(best.hit.video)?,
                score: best.hit.score,
                confidence,
                moment: Moment::around(best.hit.span, &spans, &vectors, &views[best.view]),
            });
        }
        // Without graphs every row is compared.
        let exact = options.effort == Effort::Exact || self.searcher.segments().1 == 0;
        Ok(Answer { found, exact, took: start.elapsed() })
    }

    /// The best row of each of the best `top` videos, over all views of the query.
    fn best_rows(&self, views: &[Vec<f32>], options: &Options, filter: Option<&VideoSet>) -> Result<Vec<Best>, Error> {
        let top = options.top;
        let rows = self.searcher.rows();
        let mut fetch = top.saturating_mul(OVERFETCH).max(64).min(rows);
        loop {
            let mut best: Vec<Best> = Vec::new();
            let mut seen = HashMap::<VideoNumber, usize>::new();
            let mut enough = true;
            for (view, embedding) in views.iter().enumerate() {
                let hits = self.searcher.search(embedding, fetch, filter, options.effort)?;
                // Each view by itself: one filled by a single long video hides others, however many another view brings.
                let distinct: HashSet<VideoNumber> = hits.iter().map(|hit| hit.video).collect();
                enough &= distinct.len() >= top || hits.len() < fetch || fetch >= rows;
                for hit in hits {
                    match seen.get(&hit.video) {
                        Some(&at) if best[at].hit.score >= hit.score => {}
                        Some(&at) => best[at] = Best { hit, view },
                        None => {
                            seen.insert(hit.video, best.len());
                            best.push(Best { hit, view });
                        }
                    }
                }
            }
            if !enough {
                fetch = fetch.saturating_mul(4).min(rows);
                continue;
            }
            best.sort_by(|a, b| b.hit.score.total_cmp(&a.hit.score).then(a.hit.video.cmp(&b.hit.video)));
            best.truncate(top);
            return Ok(best);
        }
    }
}

struct Best {
    hit: Hit,
    view: usize,
}

/// The embeddings under which a picture is searched for: as given and (where the encoder tells them apart) mirrored, and both again without plain
/// black borders if it has any. None for a flat picture.
///
/// # Errors
/// [`Error::Encoder`] if the encoder fails, [`Error::Checkpoint`] if encoder and checkpoint do not fit.
pub fn views(picture: &Picture, encoder: &dyn Encoder, checkpoint: &Folded) -> Result<Vec<Vec<f32>>, Error> {
    let sampling = &encoder.about().sampling;
    let trimmed = media::trim_borders(picture);
    let seen: Vec<Picture> =
        std::iter::once(picture).chain(&trimmed).map(|picture| encode::fit(picture, sampling)).collect();
    let mut embeddings = Vec::with_capacity(4);
    for descriptor in encoder.describe(&seen)?.into_iter().filter(|descriptor| !descriptor.is_flat()) {
        embeddings.push(checkpoint.embed_image(&encoder.image(&descriptor))?);
        if let Some(mirrored) = encoder.mirrored(&descriptor) {
            embeddings.push(checkpoint.embed_image(&encoder.image(&mirrored))?);
        }
    }
    Ok(embeddings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::Layout;
    use reelseek_index::{Settings, Span, Video};

    #[test]
    fn a_long_video_does_not_hide_others_behind_what_another_view_brings() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::create(dir.path().join("index"), &Settings::new(3)).unwrap();
        let mut writer = index.writer().unwrap();
        let mut put = |id: String, row: [f32; 3], rows: usize| {
            let spans: Vec<Span> = (0..rows as u32).map(|i| Span { start_ms: i, end_ms: i + 1, at_ms: i }).collect();
            writer.put(Video { id, ..Video::default() }, &spans, &row.repeat(rows), &[]).unwrap();
        };
        put("long".into(), [0.9, 0.0, 0.0], 500);
        put("right".into(), [0.8, 0.0, 0.0], 1);
        for i in 0..10 {
            put(format!("junk{i}"), [0.0, 0.3, 0.0], 1);
        }
        writer.commit().unwrap();
        let engine = Engine::new(index.searcher().unwrap(), Arc::new(Layout::embedded()), Folded::embedded());
        let views = [vec![1.0, 0.0, 0.0], vec![0.0, 1.0, 0.0]];
        let best = engine.best_rows(&views, &Options { top: 3, ..Options::default() }, None).unwrap();
        let named: Vec<_> = best.iter().map(|b| engine.searcher.video(b.hit.video).unwrap().id).collect();
        assert_eq!(named, ["long", "right", "junk0"]);
    }
}
