//! Answers from both spaces of an index: the same scene first, then the same kind of scene.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use reelseek_index::VideoSet;

use super::{EmptyReason, Engine, Group, QueryRegion, SearchAnswer, SearchOptions, SearchResult, rectified};
use crate::base::Cancel;
use crate::collection::{Collection, Error, Model, ModelChoices, Space};
use crate::media::{Frame, Picture};

/// Confidence below which a video of the same scene never ranks before those of the same kind.
const LIKELY_SCENE: f32 = 0.5;
/// Probability from which an unrelated video does not rank first by chance: see [`is_sure`].
const CHANCE: f32 = 0.006;
/// Least number of videos of the kind space that are compared with those of the same scene.
const COMPARED: usize = 20;
/// Share of the picture from which a region counts as the whole of it.
const WHOLE: f32 = 0.85;
/// Most results of one video if results are moments.
const MOMENTS: usize = 12;

/// The spaces that a search uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MatchChoice {
    /// The same scene.
    Scene,
    /// The same kind of scene.
    Kind,
    /// Both, as far as the index has them.
    #[default]
    Both,
}

impl MatchChoice {
    /// The name: `scene`, `kind` or `both`.
    pub fn name(self) -> &'static str {
        match self {
            MatchChoice::Scene => Space::Scene.name(),
            MatchChoice::Kind => Space::Kind.name(),
            MatchChoice::Both => "both",
        }
    }
}

/// The videos of each space that are searched.
#[derive(Debug, Clone)]
pub struct SearchedVideos {
    /// Videos of the index itself.
    own: VideoSet,
    /// Videos of its kind space.
    kind: Option<VideoSet>,
}

impl SearchedVideos {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.own.is_empty() && self.kind.as_ref().is_none_or(VideoSet::is_empty)
    }
}

impl Engine {
    /// Opens the last commit of an index, with its kind space if it has one.
    ///
    /// # Errors
    /// As [`Collection::open`] and [`Collection::model`].
    pub fn open(folder: &Path, choices: &ModelChoices) -> Result<Engine, Error> {
        Engine::open_matching(folder, choices, MatchChoice::Both)
    }

    /// As [`Engine::open`], without the kind space if `matching` does not use it.
    ///
    /// # Errors
    /// As [`Engine::open`]; [`Error::NoSpace`] if the index lacks the space.
    pub fn open_matching(folder: &Path, choices: &ModelChoices, matching: MatchChoice) -> Result<Engine, Error> {
        let collection = Collection::open(folder)?;
        let engine = Engine::new(&collection, collection.model(&choices.scene)?)?;
        let engine = match collection.kind()?.filter(|_| matching != MatchChoice::Scene) {
            Some(kind) => {
                let model = kind.model(&choices.kind).map_err(Error::of_kind_space)?;
                engine.with_kind(&kind, model)?
            }
            None => engine,
        };
        engine.check_has(matching)?;
        Ok(engine)
    }

    /// The engine with a kind space: an index of the same videos.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn with_kind(mut self, kind: &Collection, model: Model) -> Result<Engine, Error> {
        self.kind = Some(Box::new(Engine::new(kind, model).map_err(Error::of_kind_space)?));
        Ok(self)
    }

    /// An engine on the last commit of the same index. Keeps encoders and checkpoints in memory, unless the
    /// index was replaced by one with other settings.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub fn renewed(&self, folder: &Path, choices: &ModelChoices) -> Result<Engine, Error> {
        let collection = Collection::open(folder)?;
        let engine = Engine::new(&collection, self.model_of(&collection, &choices.scene)?)?;
        match collection.kind()? {
            Some(collection) => {
                let model = match &self.kind {
                    Some(kind) => kind.model_of(&collection, &choices.kind),
                    None => collection.model(&choices.kind),
                };
                engine.with_kind(&collection, model.map_err(Error::of_kind_space)?)
            }
            None => Ok(engine),
        }
    }

    /// What the index finds by itself, without its kind space.
    pub fn space(&self) -> Space {
        if self.encoder().info().same_scene { Space::Scene } else { Space::Kind }
    }

    /// The engine of the kind space; the engine itself if that finds kinds.
    pub fn kind(&self) -> Option<&Engine> {
        match self.space() {
            Space::Scene => self.kind.as_deref(),
            Space::Kind => Some(self),
        }
    }

    /// The videos that a filter matches.
    ///
    /// # Errors
    /// [`Error::Index`] if the filter is invalid.
    pub fn filter(&self, filter: &str) -> Result<SearchedVideos, Error> {
        let kind = self.kind.as_ref().map(|kind| kind.searcher.filter(filter)).transpose()?;
        Ok(SearchedVideos { own: self.searcher.filter(filter)?, kind })
    }

    /// Finds the videos that match a picture, in the spaces that the options name. A picture of one plain
    /// colour has no results.
    ///
    /// # Errors
    /// [`Error::Index`] if the filter is invalid or the index is damaged; [`Error::NoSpace`] if the index
    /// lacks the space.
    pub fn search(&self, picture: &Picture, options: &SearchOptions) -> Result<SearchAnswer, Error> {
        self.search_cancellable(picture, options, &Cancel::default())
    }

    /// As [`Engine::search`], unless the work is cancelled while the picture is prepared.
    ///
    /// # Errors
    /// As [`Engine::search`], and [`Error::Cancelled`].
    pub fn search_cancellable(
        &self,
        picture: &Picture,
        options: &SearchOptions,
        cancel: &Cancel,
    ) -> Result<SearchAnswer, Error> {
        let filter = options.filter.as_deref().map(|filter| self.filter(filter)).transpose()?;
        self.search_picture(picture, options, filter.as_ref(), cancel)
    }

    fn search_picture(
        &self,
        picture: &Picture,
        options: &SearchOptions,
        among: Option<&SearchedVideos>,
        cancel: &Cancel,
    ) -> Result<SearchAnswer, Error> {
        let area = picture.width as f32 * picture.height as f32;
        self.in_spaces(options, among, area, |space, options, among, region| match region {
            // Elsewhere the picture shows something else, such as an app.
            Some(region) => space.search_prepared(&rectified(picture, &region), options, among, cancel),
            None => space.search_prepared(picture, options, among, cancel),
        })
    }

    /// Finds the videos that match some frames of a clip, among the given videos (`None`: all), in the spaces
    /// that the options name. `options.filter` is ignored. One frame is searched as a picture.
    ///
    /// The answers to several frames are joined. The evidence of a result is the mean over all frames. Its
    /// confidence is the mean confidence, or that of the best frame, corrected for the number of frames;
    /// results are in the order of the confidence. The moment spans the moments of the frames. A result has
    /// no region.
    ///
    /// # Errors
    /// As [`Engine::search_cancellable`].
    pub fn search_frames(
        &self,
        frames: &[Frame],
        options: &SearchOptions,
        among: Option<&SearchedVideos>,
        cancel: &Cancel,
    ) -> Result<SearchAnswer, Error> {
        if let [frame] = frames {
            return self.search_picture(&frame.picture, options, among, cancel);
        }
        // A result of several frames has no region.
        self.in_spaces(options, among, 0.0, |space, options, among, _| {
            space.frames_prepared(frames, options, among, cancel)
        })
    }

    /// Finds the videos that match an embedding of any norm. `MatchChoice::Kind` searches the kind space, any
    /// other choice the index itself. Without a picture no frames are compared, so that order and confidence
    /// depend on the cosine alone. The zero vector has no results.
    ///
    /// # Errors
    /// [`Error::Index`] if the vector has the wrong length or is not finite, else as [`Engine::search`].
    pub fn search_vector(&self, vector: &[f32], options: &SearchOptions) -> Result<SearchAnswer, Error> {
        match options.matching {
            MatchChoice::Both => self.vector_prepared(vector, options),
            matching => self.only(matching)?.vector_prepared(vector, options),
        }
    }

    /// The engine of one space.
    fn only(&self, matching: MatchChoice) -> Result<&Engine, Error> {
        self.check_has(matching)?;
        Ok(if matching == MatchChoice::Kind { self.kind().unwrap_or(self) } else { self })
    }

    fn check_has(&self, matching: MatchChoice) -> Result<(), Error> {
        match matching {
            MatchChoice::Scene if self.space() != Space::Scene => Err(Error::NoSpace { space: Space::Scene }),
            MatchChoice::Kind if self.kind().is_none() => Err(Error::NoSpace { space: Space::Kind }),
            MatchChoice::Scene | MatchChoice::Kind | MatchChoice::Both => Ok(()),
        }
    }

    /// Searches each space that the options name, and joins the answers. `search` searches a part of the
    /// picture if it gets one. `area` is that of the picture in square pixels.
    fn in_spaces(
        &self,
        options: &SearchOptions,
        among: Option<&SearchedVideos>,
        area: f32,
        search: impl Fn(&Engine, &SearchOptions, Option<&VideoSet>, Option<QueryRegion>) -> Result<SearchAnswer, Error>,
    ) -> Result<SearchAnswer, Error> {
        let start = Instant::now();
        let (own, in_kind) = (among.map(|among| &among.own), among.and_then(|among| among.kind.as_ref()));
        let Some(kind) = self.kind.as_deref().filter(|_| options.matching != MatchChoice::Scene) else {
            return search(self.only(options.matching)?, options, own, None);
        };
        if options.matching == MatchChoice::Kind {
            return self.known_only(search(kind, options, in_kind, None)?);
        }
        let needed = options.skip.saturating_add(options.top);
        // One more than is needed, which shows whether there is another page.
        let each = SearchOptions { skip: 0, top: needed.saturating_add(1), ..options.clone() };
        let videos = kind.searcher.video_numbers().len();
        let scene = search(self, &each, own, None)?;
        let likely = scene.results.iter().filter(|found| found.confidence >= LIKELY_SCENE).count();
        // Videos of the same scene are left out of the other answer.
        let left_out = if options.group == Group::Moment { likely.saturating_mul(MOMENTS) } else { likely };
        let each = SearchOptions { top: each.top.saturating_add(left_out).max(COMPARED), ..each };
        let of_kind = |region| self.known_only(search(kind, &each, in_kind, region)?);
        let region = scene.results.first().filter(|_| likely > 0).and_then(|found| found.region);
        let kind = match region.filter(|region| region.area() < WHOLE * area) {
            Some(region) => {
                let part = of_kind(Some(region))?;
                if is_sure(&scene.results[0], &part, videos) { part } else { of_kind(None)? }
            }
            None => of_kind(None)?,
        };
        let joined = joined(scene, kind, videos, options);
        Ok(SearchAnswer { elapsed: start.elapsed(), ..joined })
    }

    /// The answer of the kind space without videos that the index lacks, because the index and its kind space
    /// are committed one after the other. No part of the picture shows a video of the same kind.
    fn known_only(&self, mut answer: SearchAnswer) -> Result<SearchAnswer, Error> {
        let mut known = Vec::with_capacity(answer.results.len());
        for found in answer.results {
            if self.searcher.number_of(&found.video.id)?.is_some() {
                known.push(SearchResult { region: None, ..found });
            }
        }
        answer.results = known;
        let reason = answer.reason.unwrap_or(EmptyReason::NothingSimilar);
        answer.reason = answer.results.is_empty().then_some(reason);
        Ok(answer)
    }
}

/// Whether a result of the same scene ranks before those of the same kind: if an unrelated video would hardly
/// be as good in both spaces. In the scene space its probability is `1 − confidence`, in the kind space the
/// share of videos that are at least as good.
fn is_sure(scene: &SearchResult, kind: &SearchAnswer, videos: usize) -> bool {
    let rank = kind.results.iter().position(|found| found.video.id == scene.video.id);
    let share = rank.map_or(1.0, |rank| (rank + 1) as f32 / videos.max(1) as f32);
    scene.confidence >= LIKELY_SCENE && (1.0 - scene.confidence) * share <= CHANCE
}

/// Joins the answers of both spaces: sure results of the same scene (see [`is_sure`]), then the other videos
/// that are of the same kind, then the other videos of the scene space.
fn joined(scene: SearchAnswer, kind: SearchAnswer, videos: usize, options: &SearchOptions) -> SearchAnswer {
    let needed = options.skip.saturating_add(options.top);
    let is_sure = |found: &SearchResult| is_sure(found, &kind, videos);
    let (mut results, unsure): (Vec<SearchResult>, Vec<SearchResult>) = scene.results.into_iter().partition(is_sure);
    for others in [kind.results, unsure] {
        let listed: HashSet<String> = results.iter().map(|found| found.video.id.clone()).collect();
        results.extend(others.into_iter().filter(|found| !listed.contains(&found.video.id)));
    }
    let more = results.len() > needed || options.group == Group::Moment && (scene.more || kind.more);
    let found = results.len();
    let results: Vec<SearchResult> = results.into_iter().skip(options.skip).take(options.top).collect();
    let reason = results.is_empty().then(|| EmptyReason::of_joined(&[scene.reason, kind.reason], found, options));
    SearchAnswer {
        more,
        results,
        exact: scene.exact && kind.exact,
        reason,
        elapsed: Duration::ZERO,
        encoding: scene.encoding + kind.encoding,
    }
}

#[cfg(test)]
mod tests {
    use reelseek_index::Video;

    use super::*;
    use crate::search::Moment;

    fn result(space: Space, id: &str, confidence: f32) -> SearchResult {
        let video = Video { id: id.to_owned(), ..Video::default() };
        let moment = Moment { from_ms: 0, at_ms: 500, to_ms: 1000 };
        SearchResult { video, space, score: confidence, evidence: confidence, confidence, moment, region: None }
    }

    fn answer(space: Space, found: &[(&str, f32)]) -> SearchAnswer {
        SearchAnswer {
            results: found.iter().map(|(id, confidence)| result(space, id, *confidence)).collect(),
            more: false,
            exact: true,
            reason: found.is_empty().then_some(EmptyReason::NoMatchForFilter),
            elapsed: Duration::ZERO,
            encoding: Duration::ZERO,
        }
    }

    /// The ids of a page, with the first letter of each space, and whether there is another page.
    fn page(scene: &[(&str, f32)], kind: &[(&str, f32)], skip: usize, top: usize) -> (String, bool) {
        let options = SearchOptions::default().page(skip, top);
        let answer = joined(answer(Space::Scene, scene), answer(Space::Kind, kind), 100, &options);
        let names = answer.results.iter().map(|found| format!("{}:{}", &found.space.name()[..1], found.video.id));
        (names.collect::<Vec<_>>().join(" "), answer.more)
    }

    #[test]
    fn sure_scenes_rank_before_kinds_and_unsure_scenes_after_them() {
        let scene = [("a", 0.999), ("b", 0.8), ("c", 0.8), ("d", 0.4)];
        let kind = [("b", 0.9), ("e", 0.8), ("d", 0.3), ("f", 0.2)];
        assert_eq!(page(&scene, &kind, 0, 10), ("s:a s:b k:e k:d k:f s:c".to_owned(), false));
        assert_eq!(page(&[], &kind, 0, 2), ("k:b k:e".to_owned(), true));
        assert_eq!(page(&scene, &[], 0, 2), ("s:a s:b".to_owned(), true));
    }

    #[test]
    fn an_empty_answer_of_both_spaces_has_a_reason() {
        let options = SearchOptions::default();
        let reason = |scene: &[_], kind: &[_], options: &SearchOptions| {
            joined(answer(Space::Scene, scene), answer(Space::Kind, kind), 100, options).reason
        };
        assert_eq!(reason(&[], &[], &options), Some(EmptyReason::NoMatchForFilter));
        assert_eq!(reason(&[], &[("a", 0.1)], &options), None);
        assert_eq!(reason(&[("a", 0.9)], &[], &options.page(5, 5)), Some(EmptyReason::PastLastResult));
    }

    #[test]
    fn pages_of_both_spaces_follow_each_other() {
        let (scene, kind) = ([("a", 0.999), ("b", 0.1)], [("b", 0.4), ("c", 0.3), ("a", 0.2)]);
        let whole = page(&scene, &kind, 0, 10).0;
        let pages = [0, 1, 2].map(|skip| page(&scene, &kind, skip, 1));
        assert_eq!(pages.each_ref().map(|page| page.0.as_str()).join(" "), whole);
        assert_eq!(pages.map(|page| page.1), [true, true, false]);
    }
}
