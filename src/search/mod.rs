//! A picture in, moments out: views of the query, over-fetch, group by video, join rows into moments, confidence.

pub mod align;
mod moment;
mod rank;

use std::path::Path;
use std::time::{Duration, Instant};

use reelseek_index::{Effort, Searcher, VideoSet};
use thiserror::Error;

pub use moment::Moment;
pub use rank::{Asked, View};
pub(crate) use rank::{Ranked, rank};

use crate::collection::{self, Calibration, Collection, CollectionState, Model, ModelChoice};
use crate::encode::{self, Encoder};
use crate::gmf::{self, Folded};
use crate::media::{self, Picture};

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
    /// The index folder cannot be opened.
    #[error(transparent)]
    Collection(#[from] collection::Error),
}

/// What a search shall return.
#[derive(Debug, Clone)]
pub struct Options {
    /// Answers at most.
    pub top: usize,
    /// Better ones that are left out: those of the pages before.
    pub skip: usize,
    /// What one answer is.
    pub group: Group,
    /// Only videos that this query of the index's text fields accepts.
    pub filter: Option<String>,
    /// Only answers of at least this confidence.
    pub min_confidence: f32,
    /// How hard the index looks.
    pub effort: Effort,
}

impl Default for Options {
    fn default() -> Options {
        let effort = Effort::Default;
        Options { top: 10, skip: 0, group: Group::Video, filter: None, min_confidence: 0.0, effort }
    }
}

/// What one answer is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Group {
    /// A video, at its best moment.
    #[default]
    Video,
    /// A moment: a video may answer with several, of the few of its rows that are looked at.
    Moment,
}

/// One answer: a video and the moment in it.
#[derive(Debug, Clone)]
pub struct Found {
    /// The video.
    pub video: reelseek_index::Video,
    /// Cosine of the query's best view and the moment's best row.
    pub score: f32,
    /// What order and confidence go by: the cosine, and where the picture was laid over the row's frame, what that told.
    pub evidence: f32,
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
    /// Whether there are answers beyond these: another page.
    pub more: bool,
    /// Whether every row was compared, so that nothing can have been missed.
    pub exact: bool,
    /// Time from picture to answer.
    pub took: Duration,
    /// The part of it in which the picture became embeddings.
    pub encoding: Duration,
}

/// Everything a query needs, on one snapshot of an index.
pub struct Engine {
    searcher: Searcher,
    model: Model,
    calibration: Calibration,
    by_cosine: Calibration,
}

impl Engine {
    /// Opens the last commit of an index with its encoder and checkpoint.
    ///
    /// # Errors
    /// [`Error::Collection`] if there is no sound index, or its encoder or checkpoint is missing or another one.
    pub fn open(folder: &Path, choice: &ModelChoice) -> Result<Engine, Error> {
        let collection = Collection::open(folder)?;
        let model = collection.model(choice)?;
        Engine::new(&collection, model)
    }

    /// An engine on the last commit of an open index.
    ///
    /// # Errors
    /// [`Error::Collection`] if a segment cannot be opened.
    pub fn new(collection: &Collection, model: Model) -> Result<Engine, Error> {
        let searcher = collection.searcher()?;
        let (state, sketches) = (CollectionState::of(&searcher), searcher.settings().sketch > 0);
        let (calibration, by_cosine) = (state.calibration(sketches), state.cosine_calibration(sketches));
        Ok(Engine { searcher, model, calibration, by_cosine })
    }

    /// An engine on the last commit of the same index. Keeps the encoder and the checkpoint in memory, unless the index
    /// was replaced by one with other settings.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub fn renewed(&self, folder: &Path, choice: &ModelChoice) -> Result<Engine, Error> {
        let collection = Collection::open(folder)?;
        let model = match collection.settings() == self.searcher.settings() {
            true => self.model.clone(),
            false => collection.model(choice)?,
        };
        Engine::new(&collection, model)
    }

    /// The encoder that pictures are described with.
    pub fn encoder(&self) -> &dyn Encoder {
        self.model.encoder.as_ref()
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
        let asked = ask(picture, self.model.encoder.as_ref(), &self.model.checkpoint)?;
        let encoding = start.elapsed();
        let answer = self.answer(&asked, options, among)?;
        Ok(Answer { took: start.elapsed(), encoding, ..answer })
    }

    /// Searches by an embedding in place of a picture; it need not be of length 1. Without a picture nothing can be laid over frames: order and
    /// confidence go by the cosine alone. Zeros find nothing.
    ///
    /// # Errors
    /// [`Error::Index`] if it has not the index's length or is not finite, else as [`Engine::search`].
    pub fn search_vector(&self, vector: &[f32], options: &Options) -> Result<Answer, Error> {
        let start = Instant::now();
        let filter = options.filter.as_deref().map(|f| self.searcher.filter(f)).transpose()?;
        let expected = self.searcher.settings().dim;
        if vector.len() != expected {
            let wrong = reelseek_index::Error::Length { what: "the vector", expected, found: vector.len() };
            return Err(wrong.into());
        }
        let length = vector.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
        if length == 0.0 {
            let (found, took) = (Vec::new(), start.elapsed());
            return Ok(Answer { found, more: false, exact: true, took, encoding: Duration::ZERO });
        }
        let embedding = vector.iter().map(|v| (f64::from(*v) / length) as f32).collect();
        let asked = Asked { views: vec![View { embedding, mirrored: false }], laid: None };
        let answer = self.answer(&asked, options, filter.as_ref())?;
        Ok(Answer { took: start.elapsed(), ..answer })
    }

    fn answer(&self, asked: &Asked, options: &Options, among: Option<&VideoSet>) -> Result<Answer, Error> {
        let wanted = options.skip.saturating_add(options.top);
        let mut videos = rank(&self.searcher, asked, wanted.saturating_add(1), among, options.effort)?;
        if options.group == Group::Video {
            videos.iter_mut().for_each(|rows| rows.truncate(1));
        }
        let mut found: Vec<(Ranked, Found)> = Vec::new();
        for rows in videos {
            self.moments_of(&rows, asked, options, &mut found)?;
        }
        found.sort_by(|(a, _), (b, _)| a.order(b));
        let more = found.len() > wanted;
        let found = found.into_iter().map(|(_, found)| found).skip(options.skip).take(options.top).collect();
        // Without graphs every row is compared.
        let exact = options.effort == Effort::Exact || self.searcher.segments().1 == 0;
        Ok(Answer { found, more, exact, took: Duration::ZERO, encoding: Duration::ZERO })
    }

    /// The moments of a video's rows, best first, with their evidence: a row that meets a better one's moment adds nothing.
    fn moments_of(
        &self,
        rows: &[Ranked],
        asked: &Asked,
        options: &Options,
        found: &mut Vec<(Ranked, Found)>,
    ) -> Result<(), Error> {
        let calibration = if asked.laid.is_some() { self.calibration } else { self.by_cosine };
        let good =
            |row: &&Ranked| row.hit.score > 0.0 && calibration.confidence(row.evidence) >= options.min_confidence;
        let good: Vec<&Ranked> = rows.iter().filter(good).collect();
        let Some(first) = good.first() else { return Ok(()) };
        let Some((spans, vectors)) = self.searcher.rows_of(first.hit.video)? else { return Ok(()) };
        let video = self.searcher.video(first.hit.video)?;
        let mut moments: Vec<Moment> = Vec::new();
        for row in good {
            if moments.iter().any(|better| better.meets(row.hit.span)) {
                continue;
            }
            let grown = Moment::around(row.hit.span, &spans, &vectors, &asked.views[row.view].embedding);
            let moment = moments.iter().fold(grown, |moment, better| moment.beside(better)).within(video.duration_ms);
            moments.push(moment);
            let confidence = calibration.confidence(row.evidence);
            let (video, score, evidence) = (video.clone(), row.hit.score, row.evidence);
            found.push((row.clone(), Found { video, score, evidence, confidence, moment }));
        }
        Ok(())
    }
}

/// The embeddings under which a picture is searched for: as given and (where the encoder tells them apart) mirrored, and both again without plain
/// black borders if it has any. None for a flat picture.
///
/// # Errors
/// [`Error::Encoder`] if the encoder fails, [`Error::Checkpoint`] if encoder and checkpoint do not fit.
pub fn views(picture: &Picture, encoder: &dyn Encoder, checkpoint: &Folded) -> Result<Vec<View>, Error> {
    views_of(picture, media::trim_borders(picture).as_ref(), encoder, checkpoint)
}

/// As [`views`], with what is left of the picture without its borders.
fn views_of(
    picture: &Picture,
    trimmed: Option<&Picture>,
    encoder: &dyn Encoder,
    checkpoint: &Folded,
) -> Result<Vec<View>, Error> {
    let sampling = &encoder.info().sampling;
    let seen: Vec<Picture> =
        std::iter::once(picture).chain(trimmed).map(|picture| encode::fit(picture, sampling)).collect();
    let mut embeddings = Vec::with_capacity(4);
    for descriptor in encoder.describe(&seen)?.into_iter().filter(|descriptor| !descriptor.is_flat()) {
        embeddings.push(View { embedding: checkpoint.embed_image(&encoder.image(&descriptor)?)?, mirrored: false });
        if let Some(mirrored) = encoder.mirrored(&descriptor) {
            embeddings.push(View { embedding: checkpoint.embed_image(&encoder.image(&mirrored)?)?, mirrored: true });
        }
    }
    Ok(embeddings)
}

/// What a picture is searched by: its views, and for the very scene, the picture as it is laid over frames, without plain borders.
///
/// # Errors
/// As [`views`].
pub fn ask(picture: &Picture, encoder: &dyn Encoder, checkpoint: &Folded) -> Result<Asked, Error> {
    let trimmed = media::trim_borders(picture);
    let views = views_of(picture, trimmed.as_ref(), encoder, checkpoint)?;
    let laid = (encoder.info().same_scene && !views.is_empty())
        .then(|| align::Query::new(trimmed.as_ref().unwrap_or(picture)));
    Ok(Asked { views, laid })
}
