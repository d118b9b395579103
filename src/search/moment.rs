//! Joins neighbouring rows of one video into a moment.

use reelseek_index::{Span, dot};

/// A row joins the moment if it scores at least this share of the best row's score.
const JOIN: f32 = 0.85;

/// A span of a video that matches a query. Times are in milliseconds from the first frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Start of the span.
    pub from_ms: u32,
    /// Time of the best match.
    pub at_ms: u32,
    /// End of the span.
    pub to_ms: u32,
}

impl Moment {
    /// Whether the moment and a row overlap.
    pub(crate) fn overlaps(&self, row: Span) -> bool {
        self.from_ms < row.end_ms && row.start_ms < self.to_ms || self.at_ms == row.at_ms
    }

    /// The part of the moment that does not overlap a better moment. The time of its best match is outside of
    /// the better one.
    pub(crate) fn without(self, better: &Moment) -> Moment {
        match self.at_ms < better.at_ms {
            true => Moment { to_ms: self.to_ms.min(better.from_ms), ..self },
            false => Moment { from_ms: self.from_ms.max(better.to_ms), ..self },
        }
    }

    /// The part of the moment before the end of the video. The last row is as long as the others, so it may
    /// end later.
    pub(crate) fn clipped_to(self, duration_ms: u64) -> Moment {
        let end_ms = u32::try_from(duration_ms).unwrap_or(u32::MAX).max(self.at_ms);
        Moment { to_ms: self.to_ms.min(end_ms), ..self }
    }

    /// Extends the best row in both directions over adjacent rows that score nearly as well. `spans` and
    /// `vectors` are all rows of the video in order of time. `query` is the embedding that found `best`.
    pub(crate) fn around(best: Span, spans: &[Span], vectors: &[f32], query: &[f32]) -> Moment {
        let mut moment = Moment { from_ms: best.start_ms, at_ms: best.at_ms, to_ms: best.end_ms };
        let Some(at) = spans.iter().position(|s| s.start_ms == best.start_ms && s.end_ms == best.end_ms) else {
            return moment;
        };
        let score = |i: usize| dot(&vectors[i * query.len()..(i + 1) * query.len()], query);
        let least = score(at) * JOIN;
        for i in (0..at).rev() {
            if spans[i].end_ms < moment.from_ms || score(i) < least {
                break;
            }
            moment.from_ms = spans[i].start_ms;
        }
        for (i, span) in spans.iter().enumerate().skip(at + 1) {
            if span.start_ms > moment.to_ms || score(i) < least {
                break;
            }
            moment.to_ms = span.end_ms;
        }
        moment
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn span(start_ms: u32, end_ms: u32) -> Span {
        Span { start_ms, end_ms, at_ms: start_ms.midpoint(end_ms) }
    }

    #[test]
    fn joins_adjacent_rows_of_similar_score_and_stops_at_gaps_and_lower_scores() {
        let spans = [span(0, 2000), span(1000, 3000), span(2000, 4000), span(3000, 5000), span(9000, 11_000)];
        let vectors = [0.1, 0.9, 0.95, 0.9, 0.95];
        let moment = Moment::around(spans[2], &spans, &vectors, &[1.0]);
        assert_eq!(moment, Moment { from_ms: 1000, at_ms: 3000, to_ms: 5000 });
    }

    #[test]
    fn moments_of_one_video_do_not_overlap() {
        let better = Moment { from_ms: 3000, at_ms: 4000, to_ms: 6000 };
        assert!(better.overlaps(span(5000, 7000)) && better.overlaps(span(2000, 3500)));
        assert!(!better.overlaps(span(6000, 8000)) && !better.overlaps(span(1000, 3000)));
        let part = |from_ms, at_ms, to_ms| Moment { from_ms, at_ms, to_ms }.without(&better);
        assert_eq!(part(0, 2000, 5000), Moment { from_ms: 0, at_ms: 2000, to_ms: 3000 });
        assert_eq!(part(2000, 7000, 9000), Moment { from_ms: 6000, at_ms: 7000, to_ms: 9000 });
        assert_eq!(part(7000, 8000, 9000), Moment { from_ms: 7000, at_ms: 8000, to_ms: 9000 });
    }

    #[test]
    fn a_moment_ends_no_later_than_its_video() {
        let moment = Moment { from_ms: 8000, at_ms: 10_000, to_ms: 10_500 };
        assert_eq!(moment.clipped_to(10_290), Moment { to_ms: 10_290, ..moment });
        assert_eq!(moment.clipped_to(11_000), moment);
        assert_eq!(
            moment.clipped_to(9000),
            Moment { to_ms: 10_000, ..moment },
            "a wrong length does not hide the best match"
        );
    }

    #[test]
    fn a_single_row_is_a_moment() {
        let spans = [span(0, 400)];
        assert_eq!(Moment::around(spans[0], &spans, &[0.5], &[1.0]), Moment { from_ms: 0, at_ms: 200, to_ms: 400 });
    }

    proptest! {
        #[test]
        fn a_moment_contains_its_best_row_and_ends_at_rows(
            scores in prop::collection::vec(-1.0f32..1.0, 1..20),
            gaps in prop::collection::vec(0u32..2, 20),
            best: prop::sample::Index,
        ) {
            let mut start = 0;
            let spans: Vec<Span> = scores.iter().zip(gaps).map(|(_, gap)| {
                start += 1000 + 1500 * gap;
                span(start, start + 2000)
            }).collect();
            let best = spans[best.index(spans.len())];
            let moment = Moment::around(best, &spans, &scores, &[1.0]);
            prop_assert!(moment.from_ms <= best.start_ms && best.end_ms <= moment.to_ms && moment.overlaps(best));
            prop_assert!(spans.iter().any(|s| s.start_ms == moment.from_ms) && spans.iter().any(|s| s.end_ms == moment.to_ms));
        }

        #[test]
        fn the_part_without_a_better_moment_does_not_overlap_it(times in prop::array::uniform6(0u32..1000)) {
            let sorted = |mut times: [u32; 3]| {
                times.sort_unstable();
                Moment { from_ms: times[0], at_ms: times[1], to_ms: times[2] }
            };
            let better = sorted([times[0], times[1], times[2]]);
            let moment = sorted([times[3], times[4], times[5]]);
            prop_assume!(moment.at_ms < better.from_ms || better.to_ms <= moment.at_ms);
            let part = moment.without(&better);
            prop_assert!(part.from_ms <= part.at_ms && part.at_ms <= part.to_ms);
            prop_assert!(part.to_ms <= better.from_ms || better.to_ms <= part.from_ms);
        }
    }
}
