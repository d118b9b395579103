//! Neighbouring rows of one video, joined into one moment.

use reelseek_index::{Span, dot};

/// A row joins the moment while it scores at least this share of the best row's score.
const JOIN: f32 = 0.85;

/// A stretch of a video; times in milliseconds from its first frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Start of the stretch.
    pub from_ms: u32,
    /// The best place in it.
    pub at_ms: u32,
    /// End of the stretch.
    pub to_ms: u32,
}

impl Moment {
    /// Whether a row has a stretch of the video in common with it.
    pub(crate) fn meets(&self, row: Span) -> bool {
        self.from_ms < row.end_ms && row.start_ms < self.to_ms || self.at_ms == row.at_ms
    }

    /// As much of it as lies on its side of a better moment, which its best place does not lie in.
    pub(crate) fn beside(self, better: &Moment) -> Moment {
        match self.at_ms < better.at_ms {
            true => Moment { to_ms: self.to_ms.min(better.from_ms), ..self },
            false => Moment { from_ms: self.from_ms.max(better.to_ms), ..self },
        }
    }

    /// As much of it as the video has: its last row is as long as all others, and the video may end in the midst of it.
    pub(crate) fn within(self, duration_ms: u64) -> Moment {
        let end_ms = u32::try_from(duration_ms).unwrap_or(u32::MAX).max(self.at_ms);
        Moment { to_ms: self.to_ms.min(end_ms), ..self }
    }

    /// Grows the best row to both sides over rows that touch it and score nearly as well. `spans` and `vectors` are
    /// all rows of the video in order of time, `query` is the embedding that found `best`.
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
    use super::*;

    fn span(start_ms: u32, end_ms: u32) -> Span {
        Span { start_ms, end_ms, at_ms: start_ms.midpoint(end_ms) }
    }

    #[test]
    fn joins_touching_rows_that_score_alike_and_stops_at_gaps_and_strangers() {
        let spans = [span(0, 2000), span(1000, 3000), span(2000, 4000), span(3000, 5000), span(9000, 11_000)];
        let vectors = [0.1, 0.9, 0.95, 0.9, 0.95];
        let moment = Moment::around(spans[2], &spans, &vectors, &[1.0]);
        assert_eq!(moment, Moment { from_ms: 1000, at_ms: 3000, to_ms: 5000 });
    }

    #[test]
    fn moments_of_one_video_do_not_overlap() {
        let better = Moment { from_ms: 3000, at_ms: 4000, to_ms: 6000 };
        assert!(better.meets(span(5000, 7000)) && better.meets(span(2000, 3500)));
        assert!(!better.meets(span(6000, 8000)) && !better.meets(span(1000, 3000)));
        let grown = |from_ms, at_ms, to_ms| Moment { from_ms, at_ms, to_ms }.beside(&better);
        assert_eq!(grown(0, 2000, 5000), Moment { from_ms: 0, at_ms: 2000, to_ms: 3000 });
        assert_eq!(grown(2000, 7000, 9000), Moment { from_ms: 6000, at_ms: 7000, to_ms: 9000 });
        assert_eq!(grown(7000, 8000, 9000), Moment { from_ms: 7000, at_ms: 8000, to_ms: 9000 });
    }

    #[test]
    fn a_moment_ends_with_its_video_at_the_latest() {
        let moment = Moment { from_ms: 8000, at_ms: 10_000, to_ms: 10_500 };
        assert_eq!(moment.within(10_290), Moment { to_ms: 10_290, ..moment });
        assert_eq!(moment.within(11_000), moment);
        assert_eq!(moment.within(9000), Moment { to_ms: 10_000, ..moment }, "a wrong length hides no place");
    }

    #[test]
    fn one_row_is_its_own_moment() {
        let spans = [span(0, 400)];
        assert_eq!(Moment::around(spans[0], &spans, &[0.5], &[1.0]), Moment { from_ms: 0, at_ms: 200, to_ms: 400 });
    }
}
