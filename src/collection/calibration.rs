//! Calibration: the scores that unrelated pictures reach by chance, and the confidence that follows from
//! them.
//!
//! `ingest::calibrate` searches for one frame (a probe) of each of up to 256 videos and excludes the frame's
//! own video from each search. The best evidence of each search (the cosine, plus the weighted correlation in
//! an index with sketches) gives the null distribution. It consists of two halves of normal distributions
//! that join at the median. The scale of the lower half is `median − 16 % quantile`.
//!
//! The upper half is wider, because some scenes look alike. In an index with sketches, copies of a video are
//! recognised by their evidence and left out. There the upper scale is the mean of `(quantile − median) / z`
//! over the quantiles of 84, 90 and 95 %, because a single quantile is noisy in a small gallery. Without
//! sketches, copies are not recognised and would increase the upper scale, so it equals the lower scale.
//!
//! For parts of a picture the best of about 90 parts is taken, so their evidence has another distribution. It
//! is measured with up to 32 probes. Each is drawn into a picture that looks like an app. The evidence of a
//! part is then converted to the scale of whole pictures.
//!
//! `confidence(s) = Φ((s − median) / scale)`. One in 20 unrelated pictures reaches a confidence of 0.95.

use serde::{Deserialize, Serialize};

/// Median, lower and upper scale of the null distribution in a gallery of about ten minutes, measured by the
/// quality evaluation on mixed clips. The prior counts as [`PRIOR_WEIGHT`] probes, so that even a gallery of
/// one video, which has no probes, gives a confidence.
const PRIOR: [f64; 3] = [0.45, 0.075, 0.075];
/// The prior for an index with sketches, where the correlation adds to the evidence.
const PRIOR_WITH_SKETCHES: [f64; 3] = [0.54, 0.09, 0.135];
/// Evidence above which a probe counts as a copy. Unrelated scenes reach 0.95, copies start at 1.1.
const COPY: f32 = 1.05;
/// The prior for parts of pictures, and the evidence of a copy.
const PRIOR_OF_PARTS: [f64; 3] = [0.83, 0.10, 0.12];
const COPY_OF_PART: f32 = 1.25;
const PRIOR_WEIGHT: f64 = 8.0;
/// Quantiles that determine the upper scale, and their distance from the median of a standard normal
/// distribution.
const UPPER: [(f64, f64); 3] = [(0.84, 0.9945), (0.90, 1.2816), (0.95, 1.6449)];
/// The 95th percentile of the standard normal distribution.
const Z95: f64 = 1.6449;
/// Smallest scale, for probes that are nearly equal.
const LEAST_SCALE: f64 = 0.02;

/// The null distribution of the best evidence in one index.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Median of the best evidence for a picture that is not in the gallery.
    pub location: f64,
    /// Standard deviation of the evidence below the median.
    pub scale: f64,
    /// Standard deviation above the median; 0 in an index of an older version, which stored `scale` only.
    #[serde(default)]
    pub upper: f64,
    /// Number of probes.
    pub probes: usize,
}

/// What evidence consists of, which determines its distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EvidenceKind {
    /// A cosine.
    Cosine,
    /// The cosine of a picture and the correlation with a frame.
    Frames,
    /// The cosine of the best of many parts of a picture, and the correlation with an aligned frame.
    Parts,
}

impl EvidenceKind {
    /// The distribution before any measurement, and the evidence from which a probe counts as a copy.
    fn prior(self) -> ([f64; 3], f32) {
        match self {
            EvidenceKind::Cosine => (PRIOR, f32::INFINITY),
            EvidenceKind::Frames => (PRIOR_WITH_SKETCHES, COPY),
            EvidenceKind::Parts => (PRIOR_OF_PARTS, COPY_OF_PART),
        }
    }
}

impl Calibration {
    /// Fits the distribution to the best evidence of probes, which have no correct answer.
    pub fn fit(mut best: Vec<f32>, kind: EvidenceKind) -> Calibration {
        let (prior, copy) = kind.prior();
        best.retain(|s| s.is_finite() && *s < copy);
        best.sort_by(f32::total_cmp);
        let n = best.len() as f64;
        let [location, scale, upper] = match best.len() {
            0 => prior,
            _ => {
                let [low, middle] = [0.16, 0.5].map(|share| quantile(&best, share));
                let scales = UPPER.map(|(share, z)| (quantile(&best, share) - middle) / z);
                let upper = scales.iter().sum::<f64>() / scales.len() as f64;
                [middle, middle - low, if kind == EvidenceKind::Cosine { middle - low } else { upper }]
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

    /// The 5th and the 95th percentile of the best evidence for a picture that is not in the gallery.
    pub fn central_range(&self) -> [f64; 2] {
        [self.location - Z95 * self.scale, self.location + Z95 * self.scale_at(1.0)]
    }

    /// Evidence of another distribution that has the same confidence there as `evidence` has here.
    pub fn converted(&self, evidence: f32, to: &Calibration) -> f32 {
        let off = f64::from(evidence) - self.location;
        (to.location + off / self.scale_at(off) * to.scale_at(off)) as f32
    }

    /// Evidence that is `deviations` standard deviations above the median.
    pub(crate) fn evidence_at(&self, deviations: f64) -> f32 {
        (self.location + deviations * self.scale_at(deviations)) as f32
    }

    /// The standard deviation on one side of the median.
    fn scale_at(&self, off: f64) -> f64 {
        if off > 0.0 && self.upper > 0.0 { self.upper } else { self.scale }
    }

    /// Probability that a picture outside of the gallery reaches less than this evidence: 0 to 1.
    pub fn confidence(&self, evidence: f32) -> f32 {
        let off = f64::from(evidence) - self.location;
        normal_cdf(off / self.scale_at(off)) as f32
    }
}

impl Default for Calibration {
    fn default() -> Calibration {
        Calibration::fit(Vec::new(), EvidenceKind::Cosine)
    }
}

fn quantile(sorted: &[f32], share: f64) -> f64 {
    let position = share * (sorted.len() - 1) as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    let part = position - below as f64;
    f64::from(sorted[below]) * (1.0 - part) + f64::from(sorted[above]) * part
}

/// Φ(z), the standard normal distribution function.
fn normal_cdf(z: f64) -> f64 {
    0.5 * libm::erfc(-z / std::f64::consts::SQRT_2)
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
    fn one_unrelated_picture_in_twenty_exceeds_095() {
        // Quantiles of a normal distribution, as the evidence of 999 probes.
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
        let calibration = Calibration::fit(null.clone(), EvidenceKind::Cosine);
        let passed = null.iter().filter(|s| calibration.confidence(**s) >= 0.95).count();
        assert!((25..=55).contains(&passed), "{passed} of 999");
    }

    #[test]
    fn one_in_twenty_exceeds_095_with_sketches_and_a_wider_upper_side() {
        // Scales of 0.08 below the median and 0.14 above it, as in a gallery with scenes that look alike.
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
        let calibration = Calibration::fit(null.clone(), EvidenceKind::Frames);
        let passed = null.iter().filter(|s| calibration.confidence(**s) >= 0.95).count();
        assert!((35..=65).contains(&passed), "{passed} of 999");
        // The lower scale alone would let through far more.
        let one_sided = Calibration::fit(null.clone(), EvidenceKind::Cosine);
        assert!(null.iter().filter(|s| one_sided.confidence(**s) >= 0.95).count() > 130);
    }

    #[test]
    fn copies_in_the_gallery_hardly_change_the_calibration() {
        let clean: Vec<f32> = (0..100).map(|i| 0.3 + 0.002 * i as f32).collect();
        let mut copies = clean.clone();
        copies.extend([0.99; 12]);
        let (a, b) = (Calibration::fit(clean, EvidenceKind::Cosine), Calibration::fit(copies, EvidenceKind::Cosine));
        assert!((a.location - b.location).abs() < 0.02 && (a.upper - b.upper).abs() < 0.02, "{a:?} {b:?}");
    }

    #[test]
    fn copies_are_left_out_in_an_index_with_sketches() {
        let unrelated: Vec<f32> = (0..80).map(|i| 0.4 + 0.004 * i as f32).collect();
        let mut copies = unrelated.clone();
        copies.extend([1.3; 30]);
        assert_eq!(Calibration::fit(unrelated, EvidenceKind::Frames), Calibration::fit(copies, EvidenceKind::Frames));
    }

    #[test]
    fn a_gallery_without_probes_has_a_confidence() {
        let calibration = Calibration::default();
        assert!(calibration.confidence(0.2) < 0.01 && calibration.confidence(0.9) > 0.99);
    }
}
