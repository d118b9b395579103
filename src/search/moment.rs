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
    /// Whether both have a stretch of the video in common.
    pub(crate) fn overlaps(&self, other: &Moment) -> bool {
        self.from_ms < other.to_ms && other.from_ms < self.to_ms || self.at_ms == other.at_ms
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
    fn one_row_is_its_own_moment() {
        let spans = [span(0, 400)];
        assert_eq!(Moment::around(spans[0], &spans, &[0.5], &[1.0]), Moment { from_ms: 0, at_ms: 200, to_ms: 400 });
    }
}
