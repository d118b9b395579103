//! Long gaps between the frames of a video.
//!
//! A frame is displayed until the next frame, so a gap consists of equal pictures. To decode and describe
//! each of them would cost time for every second of the gap, and a file of a few kilobytes can have gaps of
//! many hours. A filter therefore shortens long gaps and prints what it has removed. [`Gaps`] restores the
//! times.

/// A gap of more frames is shortened.
const LONGEST: u64 = 240;
/// Frames that are kept of a longer gap, apart from a remainder of less than [`UNIT`].
const KEPT: u64 = 120;
/// The number of removed frames is a multiple of this, so that clips start at the same frames as without the
/// removal.
const UNIT: u64 = 16;

/// The filter that shortens gaps at this rate of frames. For each gap it prints the position of the frame
/// after the gap, and the number of frames that are removed before it. Other times are as after
/// `setpts=PTS-STARTPTS`.
pub(super) fn filter(rate_hz: f64) -> String {
    // `st` stores a number, `ld` loads it: 0 has the removed time, 1 the time that is removed now.
    let frame = format!("({rate_hz}*TB)");
    let removed = format!("floor(((PTS-PREV_INPTS)*{frame}-{KEPT})/{UNIT})*{UNIT}");
    format!(
        "setpts='if(gt((PTS-PREV_INPTS)*{frame},{LONGEST}),\
         st(1,{removed});print((PTS-STARTPTS-ld(0))*{frame});print(ld(1));st(0,ld(0)+floor(ld(1)/{frame}+0.5)));\
         PTS-STARTPTS-ld(0)'"
    )
}

/// The gaps of a video that were shortened while it was decoded.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gaps {
    rate_hz: f64,
    /// Number of the first frame after each removal, ascending, and the number of frames removed up to there.
    cuts: Vec<(u64, u64)>,
}

impl Gaps {
    /// The gaps that [`filter`] has printed.
    pub(super) fn parse(rate_hz: f64, printed: &[f64]) -> Gaps {
        let cut = |pair: &[f64]| {
            let (position, removed) = (pair[0], pair[1]);
            let place = position.ceil() - removed - KEPT as f64 / 2.0;
            // A hostile file can print numbers too: in its title.
            (place >= 0.0 && removed >= UNIT as f64 && removed < f64::from(u32::MAX))
                .then_some((place as u64, removed as u64))
        };
        Gaps::new(rate_hz, printed.chunks_exact(2).filter_map(cut).collect())
    }

    /// Gaps at these frames, with the number of frames removed at each.
    pub(crate) fn new(rate_hz: f64, mut cuts: Vec<(u64, u64)>) -> Gaps {
        cuts.sort_unstable();
        let mut sum = 0;
        for (_, removed) in &mut cuts {
            sum += *removed;
            *removed = sum;
        }
        Gaps { rate_hz, cuts }
    }

    /// Whether no gap was shortened.
    pub fn is_empty(&self) -> bool {
        self.cuts.is_empty()
    }

    /// Frames that were removed.
    pub(super) fn removed(&self) -> u64 {
        self.cuts.last().map_or(0, |(_, removed)| *removed)
    }

    /// The time of a frame in the video, for its time in the shortened video. Both in milliseconds.
    pub fn restored_ms(&self, at_ms: u32) -> u32 {
        if self.is_empty() {
            return at_ms;
        }
        let frame = (f64::from(at_ms) * self.rate_hz / 1000.0).round() as u64;
        let before = self.cuts.partition_point(|(first, _)| *first <= frame);
        let removed = before.checked_sub(1).map_or(0, |last| self.cuts[last].1);
        super::time_ms(frame + removed, self.rate_hz)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_after_a_gap_are_restored() {
        let gaps = Gaps::parse(4.0, &[86_400.0, 86_272.0]);
        assert_eq!(gaps.removed(), 86_272);
        // The frame after the gap has number 128. Frames from number 68 on belong to the end of the gap.
        for (at_ms, restored_ms) in [(0, 0), (16_750, 16_750), (17_000, 21_585_000), (32_000, 21_600_000)] {
            assert_eq!(gaps.restored_ms(at_ms), restored_ms);
        }
        assert_eq!(Gaps::parse(4.0, &[]).restored_ms(1234), 1234);
        assert!(Gaps::parse(4.0, &[5.0, 1e300, 8.0, -3.0, 7.0]).is_empty());
    }
}
