//! Finds the videos, and the moments in them, that match a picture.
//!
//! [`Engine::search`] embeds the picture in several views ([`QueryView`]), fetches the nearest rows, compares
//! the picture with their frames ([`align`]), groups rows by video, joins neighbouring rows into a [`Moment`]
//! and computes its confidence ([`Calibration`]). If the whole picture has no sure answer, the engine also
//! searches for parts of it (`parts`), as in a screenshot of an app.

pub mod align;
mod bars;
mod frames;
mod moment;
mod parts;
mod rank;
mod record;
mod spaces;

use std::time::{Duration, Instant};

use reelseek_index::{Effort, Searcher, Video, VideoSet};

pub use moment::Moment;
pub(crate) use parts::{FoundPart, PartSearch, rectified};
pub use rank::{PreparedQuery, QueryView};
pub(crate) use rank::{RankedRow, rank};
pub use record::{EmptyReason, ReasonRecord, ResultRecord};
pub use spaces::{MatchChoice, SearchedVideos};

use crate::base::{Cancel, setters};
use crate::collection::{Calibration, Collection, CollectionState, Error, Model, ModelChoice, Space, limited_video};
use crate::encode::{self, Encoder};
use crate::gmf::Folded;
use crate::media::{self, Picture, PictureView};

/// Confidence of the whole picture from which no parts are searched for.
const SURE_CONFIDENCE: f32 = 0.99;

/// Options of a search.
#[derive(Debug, Clone)]
pub struct SearchOptions {
    /// Largest number of results.
    pub top: usize,
    /// Number of best results to leave out, such as those of earlier pages.
    pub skip: usize,
    /// What one result is.
    pub group: Group,
    /// Restricts the search to videos whose text fields match this filter.
    pub filter: Option<String>,
    /// Smallest confidence of a result.
    pub min_confidence: f32,
    /// Trade-off between speed and recall in the index.
    pub effort: Effort,
    /// Whether the picture is taken as a whole: no part of it is searched for, and it is not rotated.
    pub whole: bool,
    /// The spaces that are searched.
    pub matching: MatchChoice,
}

impl Default for SearchOptions {
    fn default() -> SearchOptions {
        SearchOptions {
            top: 10,
            skip: 0,
            group: Group::Video,
            filter: None,
            min_confidence: 0.0,
            effort: Effort::Default,
            whole: false,
            matching: MatchChoice::Both,
        }
    }
}

impl SearchOptions {
    /// Sets the number of best results to leave out, and the largest number of results.
    pub fn page(self, skip: usize, top: usize) -> SearchOptions {
        SearchOptions { skip, top, ..self }
    }

    /// Restricts the search to videos that match a filter.
    pub fn filter(self, filter: impl Into<String>) -> SearchOptions {
        SearchOptions { filter: Some(filter.into()), ..self }
    }
}

setters! { SearchOptions:
    group: Group,
    min_confidence: f32,
    effort: Effort,
    whole: bool,
    matching: MatchChoice,
}

/// What one result is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Group {
    /// A video, at its best moment.
    #[default]
    Video,
    /// A moment. A video may have several results, one for each moment of its best rows.
    Moment,
}

/// One result: a video and a moment in it.
#[derive(Debug, Clone)]
pub struct SearchResult {
    /// The video.
    pub video: reelseek_index::Video,
    /// The space that found it.
    pub space: Space,
    /// Cosine of the query's best view and the moment's best row: -1 to 1.
    pub score: f32,
    /// Determines order and confidence: the cosine, plus the weighted correlation if the picture was compared
    /// with the row's frame. For a part of the picture, it is converted to this scale, and that of a nearly
    /// certain part grows with its size.
    pub evidence: f32,
    /// See [`Calibration::confidence`].
    pub confidence: f32,
    /// The moment, in milliseconds from the first frame.
    pub moment: Moment,
    /// The part of the query picture that shows the video; `None` if the query is a vector or has several
    /// frames.
    pub region: Option<QueryRegion>,
}

/// The part of a query picture that shows a frame of a video.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueryRegion {
    /// Corners (x, y) in pixels of the query picture, clockwise, from the upper left corner of the part as
    /// the query shows it.
    pub corners: [[f32; 2]; 4],
    /// Clockwise rotation of the part in the query picture, in degrees: 0, 90, 180 or 270.
    pub turn: u16,
    /// Whether left and right are exchanged.
    pub mirrored: bool,
}

impl QueryRegion {
    /// A whole picture.
    pub fn whole(width: u32, height: u32, mirrored: bool) -> QueryRegion {
        QueryRegion::rectangle([0.0, 0.0, width as f32, height as f32], mirrored)
    }

    /// The corners, rounded to tenths of a pixel for output.
    pub fn rounded_corners(&self) -> [[f32; 2]; 4] {
        self.corners.map(|corner| corner.map(|side| (side * 10.0).round() / 10.0))
    }

    /// Area in square pixels.
    pub(crate) fn area(&self) -> f32 {
        parts::area(&self.corners).abs()
    }

    /// Left, top, right and bottom of the smallest upright rectangle around the region.
    pub fn bounds(&self) -> [f32; 4] {
        let around = |[l, t, r, b]: [f32; 4], [x, y]: [f32; 2]| [l.min(x), t.min(y), r.max(x), b.max(y)];
        self.corners.into_iter().fold([f32::MAX, f32::MAX, f32::MIN, f32::MIN], around)
    }

    /// The same region in a picture that contains the query picture with its upper left corner at (x, y).
    fn moved(self, [x, y]: [u32; 2]) -> QueryRegion {
        QueryRegion { corners: self.corners.map(|corner| [corner[0] + x as f32, corner[1] + y as f32]), ..self }
    }

    /// An upright rectangle: left, top, right, bottom.
    pub(crate) fn rectangle([left, top, right, bottom]: [f32; 4], mirrored: bool) -> QueryRegion {
        let corners = [[left, top], [right, top], [right, bottom], [left, bottom]];
        QueryRegion { corners, turn: 0, mirrored }
    }
}

/// The answer to one query.
#[derive(Debug, Clone)]
pub struct SearchAnswer {
    /// The results, best first.
    pub results: Vec<SearchResult>,
    /// Whether there are further results for another page.
    pub more: bool,
    /// Whether the query was compared with every row, so that no result is missing.
    pub exact: bool,
    /// Why there are no results; `None` if there are any.
    pub reason: Option<EmptyReason>,
    /// Time from the picture to the answer.
    pub elapsed: Duration,
    /// The part of `elapsed` in which the whole picture was embedded. Its parts are embedded during the
    /// search.
    pub encoding: Duration,
}

impl SearchAnswer {
    /// The answer with regions in pixels of a larger picture: the query is its part with the upper left
    /// corner at `at`.
    #[must_use]
    pub fn within_larger_picture(mut self, at: [u32; 2]) -> SearchAnswer {
        for result in &mut self.results {
            result.region = result.region.map(|region| region.moved(at));
        }
        self
    }
}

/// Answers queries on one snapshot of an index, and of its kind space if it has one.
pub struct Engine {
    searcher: Searcher,
    model: Model,
    calibration: Calibration,
    by_cosine: Calibration,
    of_parts: Calibration,
    /// The engine of the kind space.
    kind: Option<Box<Engine>>,
}

impl Engine {
    /// An engine on the last commit of an open index, without its kind space.
    ///
    /// # Errors
    /// [`Error::Index`] if a segment cannot be opened.
    pub fn new(collection: &Collection, model: Model) -> Result<Engine, Error> {
        let searcher = collection.searcher()?;
        let (state, sketches) = (CollectionState::of(&searcher), searcher.settings().sketch > 0);
        let (calibration, by_cosine) = (state.calibration(sketches), state.cosine_calibration(sketches));
        let of_parts = state.part_calibration();
        Ok(Engine { searcher, model, calibration, by_cosine, of_parts, kind: None })
    }

    /// The model of an index: the one in memory, unless the index was replaced by one with other settings.
    fn model_of(&self, collection: &Collection, choice: &ModelChoice) -> Result<Model, Error> {
        match collection.settings() == self.searcher.settings() {
            true => Ok(self.model.clone()),
            false => collection.model(choice),
        }
    }

    /// The encoder that pictures are described with.
    pub fn encoder(&self) -> &dyn Encoder {
        self.model.encoder.as_ref()
    }

    /// The snapshot that is searched.
    pub fn searcher(&self) -> &Searcher {
        &self.searcher
    }

    /// As [`Engine::search`], among the given videos (`None`: all) of the index itself, without its kind
    /// space. `options.filter` is ignored.
    ///
    /// # Errors
    /// As [`Engine::search`].
    pub fn search_among(
        &self,
        picture: &Picture,
        options: &SearchOptions,
        among: Option<&VideoSet>,
    ) -> Result<SearchAnswer, Error> {
        self.search_prepared(picture, options, among, &Cancel::default())
    }

    fn search_prepared(
        &self,
        picture: &Picture,
        options: &SearchOptions,
        among: Option<&VideoSet>,
        cancel: &Cancel,
    ) -> Result<SearchAnswer, Error> {
        let start = Instant::now();
        let mut query = prepare(picture, self.model.encoder.as_ref(), &self.model.checkpoint, cancel)?;
        let encoding = start.elapsed();
        let mut videos = self.ranked(&query, options, among)?;
        if self.needs_parts(&query, options, &videos) {
            let (searcher, model, effort) = (&self.searcher, &self.model, options.effort);
            let found = PartSearch { searcher, model, among, effort, cancel }.find(picture.view())?;
            self.add_parts(found, [picture.width, picture.height], &mut query, &mut videos);
        }
        let answer = self.answer(&query, options, among, videos)?;
        Ok(SearchAnswer { elapsed: start.elapsed(), encoding, ..answer })
    }

    fn vector_prepared(&self, vector: &[f32], options: &SearchOptions) -> Result<SearchAnswer, Error> {
        let start = Instant::now();
        let filter = options.filter.as_deref().map(|f| self.searcher.filter(f)).transpose()?;
        let expected = self.searcher.settings().dim;
        if vector.len() != expected {
            let wrong = reelseek_index::Error::Length { what: "the vector", expected, found: vector.len() };
            return Err(wrong.into());
        }
        let length = vector.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
        let unit = || vector.iter().map(|v| (f64::from(*v) / length) as f32).collect();
        let view = (length != 0.0).then(|| QueryView { embedding: unit(), mirrored: false, region: None });
        let query = PreparedQuery { views: view.into_iter().collect(), templates: None };
        let videos = self.ranked(&query, options, filter.as_ref())?;
        let answer = self.answer(&query, options, filter.as_ref(), videos)?;
        let of_vector = |reason| if reason == EmptyReason::FlatPicture { EmptyReason::ZeroVector } else { reason };
        Ok(SearchAnswer { elapsed: start.elapsed(), reason: answer.reason.map(of_vector), ..answer })
    }

    /// The best videos for the whole picture: one more than is needed.
    fn ranked(
        &self,
        query: &PreparedQuery,
        options: &SearchOptions,
        among: Option<&VideoSet>,
    ) -> Result<Vec<Vec<RankedRow>>, Error> {
        let needed = options.skip.saturating_add(options.top);
        Ok(rank(&self.searcher, query, needed.saturating_add(1), among, options.effort)?)
    }

    /// Whether parts of the picture are searched for: if the whole picture has no sure answer.
    fn needs_parts(&self, query: &PreparedQuery, options: &SearchOptions, videos: &[Vec<RankedRow>]) -> bool {
        let unsure = |rows: &Vec<RankedRow>| self.calibration.confidence(rows[0].evidence) < SURE_CONFIDENCE;
        !options.whole
            && query.templates.is_some()
            && self.searcher.settings().sketch as usize == align::BYTES
            // Without a video to search among, parts find none either.
            && videos.first().is_some_and(unsure)
    }

    /// Adds rows that a part of the picture shows. Their evidence is converted, so that the same evidence
    /// means the same confidence. Of rows with a high confidence, the one of the main frame ranks first.
    fn add_parts(
        &self,
        found: Vec<FoundPart>,
        size: [u32; 2],
        query: &mut PreparedQuery,
        videos: &mut Vec<Vec<RankedRow>>,
    ) {
        for row in videos.iter_mut().flatten() {
            if let Some(region) = query.views[row.view].region {
                row.evidence = parts::prominent(&self.calibration, row.evidence, &region, size);
            }
        }
        for FoundPart { hit, region, embedding, evidence } in found {
            let converted = self.of_parts.converted(evidence, &self.calibration);
            let evidence = parts::prominent(&self.calibration, converted, &region, size);
            let row = RankedRow { hit, view: query.views.len(), evidence, compared: true };
            query.views.push(QueryView { embedding, mirrored: region.mirrored, region: Some(region) });
            match videos.iter_mut().find(|rows| rows[0].hit.video == row.hit.video) {
                Some(rows) => match rows.iter_mut().find(|other| other.hit.nth == row.hit.nth) {
                    Some(other) if other.compared && other.evidence >= row.evidence => {}
                    Some(other) => *other = row,
                    None => rows.push(row),
                },
                None => videos.push(vec![row]),
            }
        }
        videos.iter_mut().for_each(|rows| rows.sort_by(RankedRow::order));
        videos.sort_by(|a, b| a[0].order(&b[0]));
    }

    fn answer(
        &self,
        query: &PreparedQuery,
        options: &SearchOptions,
        among: Option<&VideoSet>,
        mut videos: Vec<Vec<RankedRow>>,
    ) -> Result<SearchAnswer, Error> {
        let needed = options.skip.saturating_add(options.top);
        if options.group == Group::Video {
            videos.iter_mut().for_each(|rows| rows.truncate(1));
        }
        let mut results: Vec<(RankedRow, SearchResult)> = Vec::new();
        for rows in videos {
            self.add_moments(&rows, query, options, &mut results)?;
        }
        results.sort_by(|(a, _), (b, _)| a.order(b));
        let found = results.len();
        let page = results.into_iter().skip(options.skip).take(options.top);
        let read = |(row, result): (RankedRow, SearchResult)| {
            Ok(SearchResult { video: limited_video(&self.searcher, row.hit.video)?, ..result })
        };
        let results = page.map(read).collect::<Result<Vec<_>, Error>>()?;
        let reason = results.is_empty().then(|| {
            if self.searcher.video_numbers().is_empty() {
                EmptyReason::NoVideos
            } else if among.is_some_and(VideoSet::is_empty) {
                EmptyReason::NoMatchForFilter
            } else if query.views.is_empty() {
                EmptyReason::FlatPicture
            } else {
                EmptyReason::of_page(found, options)
            }
        });
        // Without graphs the index compares every row.
        let exact = options.effort == Effort::Exact || self.searcher.segment_counts().graphs == 0;
        let more = found > needed;
        Ok(SearchAnswer { results, more, exact, reason, elapsed: Duration::ZERO, encoding: Duration::ZERO })
    }

    /// Adds the moments of a video's rows, without the fields of the video. A row that overlaps the moment of
    /// a better row adds none.
    fn add_moments(
        &self,
        rows: &[RankedRow],
        query: &PreparedQuery,
        options: &SearchOptions,
        results: &mut Vec<(RankedRow, SearchResult)>,
    ) -> Result<(), Error> {
        let calibration = if query.templates.is_some() { self.calibration } else { self.by_cosine };
        let good =
            |row: &&RankedRow| row.hit.score > 0.0 && calibration.confidence(row.evidence) >= options.min_confidence;
        let good: Vec<&RankedRow> = rows.iter().filter(good).collect();
        let Some(first) = good.first() else { return Ok(()) };
        let Some((spans, vectors)) = self.searcher.rows_of(first.hit.video)? else { return Ok(()) };
        let duration_ms = self.searcher.video(first.hit.video)?.duration_ms;
        let mut moments: Vec<Moment> = Vec::new();
        for row in good {
            if moments.iter().any(|better| better.overlaps(row.hit.span)) {
                continue;
            }
            let whole = Moment::around(row.hit.span, &spans, &vectors, &query.views[row.view].embedding);
            let moment = moments.iter().fold(whole, |moment, better| moment.without(better));
            let moment = moment.clipped_to(duration_ms);
            moments.push(moment);
            let confidence = calibration.confidence(row.evidence);
            let (video, space) = (Video::default(), self.space());
            let (score, evidence, region) = (row.hit.score, row.evidence, query.views[row.view].region);
            results.push((row.clone(), SearchResult { video, space, score, evidence, confidence, moment, region }));
        }
        Ok(())
    }
}

/// The embeddings of a query picture: as it is, mirrored (if the encoder distinguishes the two), and both
/// again without black borders (`trimmed`, if there are any). A picture of one plain colour has no
/// embeddings.
///
/// # Errors
/// [`Error::Encoder`] if the encoder fails, [`Error::Checkpoint`] if encoder and checkpoint do not fit.
fn views(
    picture: &Picture,
    trimmed: Option<PictureView<'_>>,
    encoder: &dyn Encoder,
    checkpoint: &Folded,
    cancel: &Cancel,
) -> Result<Vec<QueryView>, Error> {
    let sampling = &encoder.info().sampling;
    let (mut fitted, mut rectangles) = (Vec::with_capacity(2), Vec::with_capacity(2));
    for view in std::iter::once(picture.view()).chain(trimmed) {
        go_on(cancel)?;
        fitted.push(encode::fit(view, sampling));
        rectangles.push(view.rectangle().map(|side| side as f32));
    }
    let mut views = Vec::with_capacity(4);
    let described = encoder.describe_query(&fitted)?.into_iter().zip(rectangles);
    for (descriptor, rectangle) in described.filter(|(descriptor, _)| !descriptor.is_flat()) {
        let mirrored = encoder.mirrored(&descriptor).map(|descriptor| (descriptor, true));
        for (descriptor, mirrored) in std::iter::once((descriptor, false)).chain(mirrored) {
            let embedding = checkpoint.embed_image(&encoder.image(&descriptor)?)?;
            let region = Some(QueryRegion::rectangle(rectangle, mirrored));
            views.push(QueryView { embedding, mirrored, region });
        }
    }
    Ok(views)
}

/// Prepares a picture for a search: embeds its views, and makes templates if the encoder searches for the
/// same scene.
///
/// # Errors
/// As [`views`], and [`Error::Cancelled`].
///
/// Each pass over the pixels of a large picture takes some hundredths of a second, so the flag is checked
/// between them.
fn prepare(
    picture: &Picture,
    encoder: &dyn Encoder,
    checkpoint: &Folded,
    cancel: &Cancel,
) -> Result<PreparedQuery, Error> {
    go_on(cancel)?;
    let trimmed = media::trim_borders(picture);
    let views = views(picture, trimmed, encoder, checkpoint, cancel)?;
    go_on(cancel)?;
    let templates = (encoder.info().same_scene && !views.is_empty())
        .then(|| align::QueryTemplates::new(trimmed.unwrap_or(picture.view())));
    go_on(cancel)?;
    Ok(PreparedQuery { views, templates })
}

/// [`Error::Cancelled`] if the work is cancelled.
fn go_on(cancel: &Cancel) -> Result<(), Error> {
    if cancel.is_set() { Err(Error::Cancelled) } else { Ok(()) }
}
