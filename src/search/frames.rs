//! Searches with several frames of an animation or a video, and joins their answers.
//!
//! Each frame is a query. A result of one frame is a vote for a moment of a video. Votes for one video agree
//! if their moments are as far apart as the frames are, so that together they show a longer moment.

use std::collections::HashMap;
use std::time::Instant;

use reelseek_index::{Span, VideoSet};

use super::{EmptyReason, Engine, Group, Moment, SearchAnswer, SearchOptions, SearchResult};
use crate::base::Cancel;
use crate::collection::Error;
use crate::media::Frame;

/// Results of each frame that count as votes.
const VOTES: usize = 100;
/// Distance in milliseconds from the expected time up to which a vote agrees. It grows by half of the time
/// between the frames, because clips are played slower or faster.
const TOLERANCE_MS: u64 = 1500;
/// Confidence of a vote that extends the joined moment.
const SURE_VOTE: f32 = 0.5;

/// A result of one frame.
struct FrameVote {
    /// Number of the frame.
    frame: usize,
    /// Time of the frame.
    at_ms: u32,
    result: SearchResult,
}

impl FrameVote {
    /// Whether this vote and a better one can belong to one copy of the clip.
    fn agrees(&self, better: &FrameVote) -> bool {
        let apart = i64::from(self.at_ms) - i64::from(better.at_ms);
        let expected = i64::from(better.result.moment.at_ms) + apart;
        let Moment { from_ms, to_ms, .. } = self.result.moment;
        let distance = (i64::from(from_ms) - expected).max(expected - i64::from(to_ms)).max(0);
        distance.unsigned_abs() <= TOLERANCE_MS + apart.unsigned_abs() / 2
    }
}

impl Engine {
    /// Searches this space with some frames of a clip: see [`Engine::search_frames`].
    pub(super) fn frames_prepared(
        &self,
        frames: &[Frame],
        options: &SearchOptions,
        among: Option<&VideoSet>,
        cancel: &Cancel,
    ) -> Result<SearchAnswer, Error> {
        let start = Instant::now();
        let each = SearchOptions {
            top: VOTES,
            skip: 0,
            group: Group::Moment,
            min_confidence: 0.0,
            filter: None,
            ..options.clone()
        };
        let mut answers = Vec::with_capacity(frames.len());
        for frame in frames {
            answers.push((frame.at_ms, self.search_prepared(&frame.picture, &each, among, cancel)?));
        }
        let joined = join(answers, options);
        Ok(SearchAnswer { elapsed: start.elapsed(), ..joined })
    }
}

/// Joins the answers to the frames at these times.
fn join(answers: Vec<(u32, SearchAnswer)>, options: &SearchOptions) -> SearchAnswer {
    let exact = answers.iter().all(|(_, answer)| answer.exact);
    let reasons: Vec<Option<EmptyReason>> = answers.iter().map(|(_, answer)| answer.reason).collect();
    let encoding = answers.iter().map(|(_, answer)| answer.encoding).sum();
    let elapsed = answers.iter().map(|(_, answer)| answer.elapsed).sum();
    // The evidence of a frame for a video that it does not find.
    let least: Vec<f32> =
        answers.iter().map(|(_, answer)| answer.results.last().map_or(0.0, |result| result.evidence)).collect();
    let mut votes: HashMap<String, Vec<FrameVote>> = HashMap::new();
    for (frame, (at_ms, answer)) in answers.into_iter().enumerate() {
        for result in answer.results {
            votes.entry(result.video.id.clone()).or_default().push(FrameVote { frame, at_ms, result });
        }
    }
    let mut results = Vec::new();
    for (_, mut votes) in votes {
        votes.sort_by(|a, b| b.result.evidence.total_cmp(&a.result.evidence).then(a.frame.cmp(&b.frame)));
        loop {
            let (result, rest) = join_video(votes, &least);
            results.extend(result.filter(|result| result.confidence >= options.min_confidence));
            votes = rest;
            if options.group == Group::Video || votes.is_empty() {
                break;
            }
        }
    }
    results.sort_by(|a, b| {
        let by_confidence = b.confidence.total_cmp(&a.confidence).then(b.evidence.total_cmp(&a.evidence));
        by_confidence.then_with(|| (&a.video.id, a.moment.at_ms).cmp(&(&b.video.id, b.moment.at_ms)))
    });
    let found = results.len();
    let more = found > options.skip.saturating_add(options.top);
    let results: Vec<SearchResult> = results.into_iter().skip(options.skip).take(options.top).collect();
    let reason = results.is_empty().then(|| EmptyReason::of_joined(&reasons, found, options));
    SearchAnswer { results, more, exact, reason, elapsed, encoding }
}

/// Joins the best vote for a video with the votes that agree with it. Returns the votes for other moments
/// too. Votes are in descending order of evidence.
fn join_video(votes: Vec<FrameVote>, least: &[f32]) -> (Option<SearchResult>, Vec<FrameVote>) {
    let mut votes = votes.into_iter();
    let Some(best) = votes.next() else { return (None, Vec::new()) };
    let mut evidence = least.to_vec();
    let mut confidence = vec![0.0; least.len()];
    let mut moment = best.result.moment;
    (evidence[best.frame], confidence[best.frame]) = (best.result.evidence, best.result.confidence);
    let mut found = vec![false; least.len()];
    found[best.frame] = true;
    let mut others = Vec::new();
    for vote in votes {
        if found[vote.frame] || !vote.agrees(&best) {
            others.push(vote);
            continue;
        }
        found[vote.frame] = true;
        (evidence[vote.frame], confidence[vote.frame]) = (vote.result.evidence, vote.result.confidence);
        if vote.result.confidence >= SURE_VOTE {
            moment.from_ms = moment.from_ms.min(vote.result.moment.from_ms);
            moment.to_ms = moment.to_ms.max(vote.result.moment.to_ms);
        }
    }
    let span = |vote: &FrameVote| {
        let Moment { from_ms, at_ms, to_ms } = vote.result.moment;
        Span { start_ms: from_ms, at_ms, end_ms: to_ms }
    };
    others.retain(|vote| !moment.overlaps(span(vote)));
    let frames = least.len() as f32;
    let mean = |values: &[f32]| values.iter().sum::<f32>() / frames;
    // One of several frames reaches a high confidence by chance more often than a single one.
    let of_best = 1.0 - frames * (1.0 - best.result.confidence);
    let confidence = mean(&confidence).max(of_best);
    let result = SearchResult { evidence: mean(&evidence), confidence, moment, region: None, ..best.result };
    (Some(result), others)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use reelseek_index::Video;

    use super::*;
    use crate::collection::Space;

    fn result(id: &str, seconds: u32, evidence: f32, confidence: f32) -> SearchResult {
        let moment = Moment { from_ms: seconds * 1000, at_ms: seconds * 1000 + 500, to_ms: seconds * 1000 + 1000 };
        let video = Video { id: id.to_owned(), ..Video::default() };
        SearchResult { video, space: Space::Scene, score: evidence, evidence, confidence, moment, region: None }
    }

    /// Joins the answers to frames that are two seconds apart.
    fn joined(answers: &[Vec<SearchResult>], options: &SearchOptions) -> Vec<SearchResult> {
        joined_answer(answers, options).results
    }

    fn joined_answer(answers: &[Vec<SearchResult>], options: &SearchOptions) -> SearchAnswer {
        let answer = |results: &Vec<SearchResult>| SearchAnswer {
            results: results.clone(),
            more: false,
            exact: true,
            reason: results.is_empty().then_some(EmptyReason::FlatPicture),
            elapsed: Duration::ZERO,
            encoding: Duration::ZERO,
        };
        join((0..).step_by(2000).zip(answers.iter().map(answer)).collect(), options)
    }

    #[test]
    fn frames_that_agree_outvote_a_better_frame_of_another_video() {
        let answers = [
            vec![result("other", 50, 1.1, 0.96), result("right", 10, 1.0, 0.95)],
            vec![result("right", 12, 1.0, 0.95), result("other", 3, 0.6, 0.3)],
            vec![result("right", 14, 1.0, 0.95), result("other", 99, 0.6, 0.3)],
        ];
        let found = joined(&answers, &SearchOptions::default());
        assert_eq!(found.iter().map(|result| &*result.video.id).collect::<Vec<_>>(), ["right", "other"]);
        let Moment { from_ms, to_ms, .. } = found[0].moment;
        assert_eq!((from_ms, to_ms), (10_000, 15_000));
        assert!((found[0].evidence - 1.0).abs() < 1e-6 && (found[0].confidence - 0.95).abs() < 1e-6);
    }

    #[test]
    fn one_certain_frame_of_many_is_enough() {
        let weak = |seconds| vec![result("weak", seconds, 0.5, 0.4)];
        let mut answers: Vec<_> = (0..8).map(|i| weak(2 * i)).collect();
        answers[3].insert(0, result("certain", 30, 1.4, 0.9999));
        let found = joined(&answers, &SearchOptions::default());
        assert_eq!(found[0].video.id, "certain");
        assert!((0.99..1.0).contains(&found[0].confidence), "{}", found[0].confidence);
    }

    #[test]
    fn one_unsure_frame_of_many_is_less_sure_than_a_picture() {
        let mut answers = vec![vec![result("none", 5, 0.5, 0.4)]; 8];
        answers[0][0] = result("chance", 9, 0.9, 0.95);
        let found = joined(&answers, &SearchOptions::default());
        let chance = found.iter().find(|result| result.video.id == "chance").unwrap();
        assert!(chance.confidence <= 0.6, "{}", chance.confidence);
        assert_eq!(joined(&answers, &SearchOptions::default().min_confidence(0.97)).len(), 0);
    }

    #[test]
    fn moments_of_a_clip_that_a_video_shows_twice_are_two_results() {
        let both = |seconds| vec![result("v", seconds, 1.0, 0.9), result("v", seconds + 60, 0.9, 0.9)];
        let answers = [both(10), both(12), both(14)];
        assert_eq!(joined(&answers, &SearchOptions::default()).len(), 1);
        let found = joined(&answers, &SearchOptions::default().group(Group::Moment));
        let spans: Vec<_> = found.iter().map(|result| (result.moment.from_ms, result.moment.to_ms)).collect();
        assert_eq!(spans, [(10_000, 15_000), (70_000, 75_000)]);
    }

    #[test]
    fn pages_of_joined_results_follow_each_other() {
        let many = (0..5_u8).map(|i| result(&format!("v{i}"), 1, 1.0 - f32::from(i) / 10.0, 0.9 - f32::from(i) / 10.0));
        let answers = vec![many.collect::<Vec<_>>(); 2];
        let page = |skip| {
            let found = joined(&answers, &SearchOptions::default().page(skip, 2));
            found.into_iter().map(|result| result.video.id).collect::<Vec<_>>()
        };
        assert_eq!([page(0), page(2), page(4)].concat(), ["v0", "v1", "v2", "v3", "v4"]);
    }

    #[test]
    fn an_empty_joined_answer_has_a_reason() {
        let one = vec![vec![result("v", 1, 0.5, 0.4)], Vec::new()];
        let reason = |answers: &[_], options: SearchOptions| joined_answer(answers, &options).reason;
        assert_eq!(reason(&one, SearchOptions::default()), None);
        assert_eq!(reason(&one, SearchOptions::default().page(1, 10)), Some(EmptyReason::PastLastResult));
        assert_eq!(reason(&one, SearchOptions::default().min_confidence(0.9)), Some(EmptyReason::BelowMinConfidence));
        assert_eq!(reason(&[Vec::new(), Vec::new()], SearchOptions::default()), Some(EmptyReason::FlatPicture));
        let of_frames = |reasons: &[_]| EmptyReason::of_joined(reasons, 0, &SearchOptions::default());
        let (flat, filter) = (Some(EmptyReason::FlatPicture), Some(EmptyReason::NoMatchForFilter));
        assert_eq!(of_frames(&[filter, filter]), EmptyReason::NoMatchForFilter);
        assert_eq!(of_frames(&[flat, Some(EmptyReason::NothingSimilar)]), EmptyReason::NothingSimilar);
    }
}
