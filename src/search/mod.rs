//! A picture in, moments out: views of the query, over-fetch, group by video, join rows into moments, confidence.

pub mod align;
mod calibration;
mod moment;
mod rank;
mod state;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use reelseek_index::{Effort, Index, Searcher, VideoSet};
use thiserror::Error;

pub use calibration::Calibration;
pub use moment::Moment;
pub use rank::Asked;
pub(crate) use rank::rank;
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
        let asked = ask(picture, self.encoder.as_ref(), &self.checkpoint)?;
        let mut found = Vec::new();
        for best in rank(&self.searcher, &asked, options.top, among, options.effort)? {
            let confidence = self.calibration.confidence(best.evidence);
            if best.hit.score <= 0.0 || confidence < options.min_confidence {
                continue;
            }
            let Some((spans, vectors)) = self.searcher.rows_of(best.hit.video)? else { continue };
            found.push(Found {
                video: self.searcher.video(best.hit.video)?,
                score: best.hit.score,
                confidence,
                moment: Moment::around(best.hit.span, &spans, &vectors, &asked.views[best.view]),
            });
        }
        // Without graphs every row is compared.
        let exact = options.effort == Effort::Exact || self.searcher.segments().1 == 0;
        Ok(Answer { found, exact, took: start.elapsed() })
    }
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

/// What a picture is searched by: its views, and for the very scene, the picture as it is laid over frames, without plain borders.
///
/// # Errors
/// As [`views`].
pub fn ask(picture: &Picture, encoder: &dyn Encoder, checkpoint: &Folded) -> Result<Asked, Error> {
    let views = views(picture, encoder, checkpoint)?;
    let laid = (encoder.about().same_scene && !views.is_empty())
        .then(|| align::Query::new(media::trim_borders(picture).as_ref().unwrap_or(picture)));
    Ok(Asked { views, laid })
}
