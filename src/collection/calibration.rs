//! How far a picture that is not in the gallery gets by chance.
//!
//! At each commit up to 256 frames of the gallery, each with its own video left out, are searched for. The
//! best evidence for each (the cosine, and in an index with sketches what a second look adds) is the null
//! distribution: two halves of normal distributions, joined at the median, the lower one of scale `median −
//! 16 % quantile`. The upper one is wider, for some scenes look alike. With sketches, where a copy of a video
//! elsewhere in the gallery is known by its evidence and left out, its scale is the mean of `(quantile −
//! median) / z` over the quantiles of 84, 90 and 95 %, since one alone wavers in a small gallery; without,
//! where copies would push it up, it is that of the lower one. `confidence(s) = Φ((s − median) / scale)`:
//! 0.95 is passed by one foreign picture in 20.

use serde::{Deserialize, Serialize};

/// What the null distribution looks like in a gallery of some ten minutes; counts as [`PRIOR_WEIGHT`] probes,
/// so that a gallery of one video, which can tell nothing, has an answer. From `reelseek quality` on mixed
/// clips.
const PRIOR: [f64; 3] = [0.45, 0.075, 0.075];
/// The same where candidates are laid over sketches, which adds to their evidence.
const PRIOR_WITH_SKETCHES: [f64; 3] = [0.54, 0.09, 0.135];
/// Evidence above which a probe is held to lie on a frame of a copy: foreign scenes reach 0.95, copies begin
/// at 1.1.
const COPY: f32 = 1.05;
const PRIOR_WEIGHT: f64 = 8.0;
/// Quantiles that the upper scale goes by, and how many deviations of a normal distribution they lie above
/// its median.
const UPPER: [(f64, f64); 3] = [(0.84, 0.9945), (0.90, 1.2816), (0.95, 1.6449)];
/// The 95th percentile of the standard normal distribution.
const Z95: f64 = 1.6449;
/// Never narrower than this, however alike the probes are.
const LEAST_SCALE: f64 = 0.02;

/// The null distribution of best scores on one index.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Median of the best score of a picture that is not in the gallery.
    pub location: f64,
    /// Standard deviation of that score below the median.
    pub scale: f64,
    /// The same above it; 0 in an index of before there were two.
    #[serde(default)]
    pub upper: f64,
    /// Probes that were searched for.
    pub probes: usize,
}

impl Calibration {
    /// From the best evidence of probes that have no right answer, in an index with sketches or without.
    pub fn fit(mut best: Vec<f32>, sketches: bool) -> Calibration {
        let prior = if sketches { PRIOR_WITH_SKETCHES } else { PRIOR };
        best.retain(|s| s.is_finite() && !(sketches && *s >= COPY));
        best.sort_by(f32::total_cmp);
        let n = best.len() as f64;
        let [location, scale, upper] = match best.len() {
            0 => prior,
            _ => {
                let [low, middle] = [0.16, 0.5].map(|share| quantile(&best, share));
                let scales = UPPER.map(|(share, z)| (quantile(&best, share) - middle) / z);
                let upper = scales.iter().sum::<f64>() / scales.len() as f64;
                [middle, middle - low, if sketches { upper } else { middle - low }]
            }
        };
        let blend = |own: f64, prior: f64| (own * n + prior * PRIOR_WEIGHT) / (n + PRIOR_WEIGHT);
        Calibration {
            location: blend(location, prior[0]),
            scale: blend(scale, prior[1]).max(LEAST_SCALE),
            upper: blend(upper, prior[2]).max(LEAST_SCALE),
            probes: best.len(),
        }
    }

    /// The 5th and the 95th percentile of the best score of a picture that is not in the gallery.
    pub fn central_range(&self) -> [f64; 2] {
        let upper = if self.upper > 0.0 { self.upper } else { self.scale };
        [self.location - Z95 * self.scale, self.location + Z95 * upper]
    }

    /// The chance that a picture which is not in the gallery scores less than `score`, in [0, 1].
    pub fn confidence(&self, score: f32) -> f32 {
        let off = f64::from(score) - self.location;
        let scale = if off > 0.0 && self.upper > 0.0 { self.upper } else { self.scale };
        normal_cdf(off / scale) as f32
    }
}

impl Default for Calibration {
    fn default() -> Calibration {
        Calibration::fit(Vec::new(), false)
    }
}

fn quantile(sorted: &[f32], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    let part = place - below as f64;
    f64::from(sorted[below]) * (1.0 - part) + f64::from(sorted[above]) * part
}

/// Φ(z), by Abramowitz and Stegun 7.1.26: absolute error below 1.5e-7.
fn normal_cdf(z: f64) -> f64 {
    let x = z.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let series =
        t * (0.254_829_592 + t * (-0.284_496_736 + t * (1.421_413_741 + t * (-1.453_152_027 + t * 1.061_405_429))));
    let erf = 1.0 - series * (-x * x).exp();
    if z >= 0.0 { 0.5 * (1.0 + erf) } else { 0.5 * (1.0 - erf) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_cdf_matches_known_values() {
        for (z, p) in [(0.0, 0.5), (1.644_853_6, 0.95), (-1.959_964, 0.025), (2.326_347_9, 0.99), (-8.0, 0.0)] {
            assert!((normal_cdf(z) - p).abs() < 1e-6, "{z}");
        }
    }

    #[test]
    fn one_foreign_picture_in_twenty_passes_095() {
        // A normal null of 1,000 probes, by its quantiles.
        let null: Vec<f32> = (1..1000)
            .map(|i| {
                let p = f64::from(i) / 1000.0;
                let (mut low, mut high) = (-6.0, 6.0);
                for _ in 0..60 {
                    let middle = 0.5 * (low + high);
                    if normal_cdf(middle) < p { low = middle } else { high = middle }
                }
                (0.4 + 0.06 * low) as f32
            })
            .collect();
        let calibration = Calibration::fit(null.clone(), false);
        let passed = null.iter().filter(|s| calibration.confidence(**s) >= 0.95).count();
        assert!((25..=55).contains(&passed), "{passed} of 999");
    }

    #[test]
    fn with_sketches_too_where_the_upper_side_is_wider() {
        // Scales of 0.08 below the median and 0.14 above it, as scenes that look alike make it.
        let at = |p: f64| {
            let (mut low, mut high) = (-6.0, 6.0);
            for _ in 0..60 {
                let middle = 0.5 * (low + high);
                if normal_cdf(middle) < p { low = middle } else { high = middle }
            }
            (0.5 + if low > 0.0 { 0.14 * low } else { 0.08 * low }) as f32
        };
        let mut null: Vec<f32> = (1..1000).map(|i| at(f64::from(i) / 1000.0)).collect();
        null.retain(|v| *v < COPY);
        let calibration = Calibration::fit(null.clone(), true);
        let passed = null.iter().filter(|s| calibration.confidence(**s) >= 0.95).count();
        assert!((35..=65).contains(&passed), "{passed} of 999");
        // The same by the lower side alone would let through far more.
        let one_sided = Calibration::fit(null.clone(), false);
        assert!(null.iter().filter(|s| one_sided.confidence(**s) >= 0.95).count() > 130);
    }

    #[test]
    fn copies_in_the_gallery_hardly_move_it() {
        let clean: Vec<f32> = (0..100).map(|i| 0.3 + 0.002 * i as f32).collect();
        let mut copies = clean.clone();
        copies.extend([0.99; 12]);
        let (a, b) = (Calibration::fit(clean, false), Calibration::fit(copies, false));
        assert!((a.location - b.location).abs() < 0.02 && (a.upper - b.upper).abs() < 0.02, "{a:?} {b:?}");
    }

    #[test]
    fn copies_are_left_out_where_sketches_tell_them() {
        let foreign: Vec<f32> = (0..80).map(|i| 0.4 + 0.004 * i as f32).collect();
        let mut copies = foreign.clone();
        copies.extend([1.3; 30]);
        assert_eq!(Calibration::fit(foreign, true), Calibration::fit(copies, true));
    }

    #[test]
    fn no_probes_still_gives_an_answer() {
        let calibration = Calibration::default();
        assert!(calibration.confidence(0.2) < 0.01 && calibration.confidence(0.9) > 0.99);
    }
}
