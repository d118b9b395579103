//! The form of a GMF model (lengths, magnification, boundary) and its cost.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Largest accepted number of parameters. A larger number is a mistake: the paper's largest model has 0.34 ·
/// 10⁹.
const MAX_PARAMETERS: usize = 1 << 34;

/// Why a form of a model is invalid.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Fewer than two modalities.
    #[error("{0} modalities: GMF exchanges parts between modalities, so it needs at least two")]
    Modalities(usize),
    /// A name is empty, repeated, or contains a dot.
    #[error(
        "`{0}` cannot name a modality: names are unique, not empty and without a dot, because tensors are named by them"
    )]
    Name(String),
    /// A modality whose features have length 0.
    #[error("modality `{0}` has features of length 0; expected at least 1")]
    Length(String),
    /// The magnification is not above 2, which Theorem 3.3 requires.
    #[error(
        "multiple is {0}; the magnification n of the dissociation is a whole number greater than 2 (the paper uses 4)"
    )]
    Multiple(u32),
    /// The boundary is not between 0 and 1.
    #[error(
        "boundary is {0}; it is the share of the dissociated length that is invariant, between 0 and 1 (the paper uses 0.5)"
    )]
    Boundary(f64),
    /// The boundary leaves one side empty after rounding.
    #[error("boundary {boundary} of {dissociated} dissociated numbers of `{modality}` leaves one side empty")]
    EmptySide {
        /// Name of the modality.
        modality: String,
        /// Dissociated length, n·l.
        dissociated: usize,
        /// The boundary.
        boundary: f64,
    },
    /// The model would have more than 2³⁴ parameters.
    #[error("the model would have more than {MAX_PARAMETERS} parameters")]
    TooLarge,
}

/// Name and feature length of one modality.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Modality {
    /// Name, such as `image` or `video`.
    pub name: String,
    /// Length of the modality's features.
    pub length: usize,
}

/// The four affine layers of a modality, in the order in which a feature passes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GmfLayer {
    /// P_dis: (n·l, l).
    Dissociate,
    /// P_cinv: (l*, b).
    ConcentrateInvariant,
    /// P_cspec: (l, n·l − b).
    ConcentrateSpecific,
    /// P_recon: (l, l* + l), over `[inv of the next modality; spec]`.
    Reconstruct,
}

impl GmfLayer {
    /// All four layers, in order.
    pub const ALL: [GmfLayer; 4] =
        [GmfLayer::Dissociate, GmfLayer::ConcentrateInvariant, GmfLayer::ConcentrateSpecific, GmfLayer::Reconstruct];

    /// Name of the layer in a checkpoint.
    pub fn name(self) -> &'static str {
        match self {
            GmfLayer::Dissociate => "dis",
            GmfLayer::ConcentrateInvariant => "cinv",
            GmfLayer::ConcentrateSpecific => "cspec",
            GmfLayer::Reconstruct => "recon",
        }
    }
}

/// A validated form of a model: `d ≥ 2` modalities of any lengths `l_j`, magnification `n`, boundary.
#[derive(Debug, Clone, PartialEq)]
pub struct GmfConfig {
    modalities: Vec<Modality>,
    multiple: u32,
    boundary: f64,
}

impl GmfConfig {
    /// Magnification of all experiments in the paper.
    pub const MULTIPLE: u32 = 4;
    /// Boundary of all experiments in the paper.
    pub const BOUNDARY: f64 = 0.5;

    /// Validates a form.
    ///
    /// # Errors
    /// A [`ConfigError`] that names the invalid value.
    pub fn new(modalities: Vec<Modality>, multiple: u32, boundary: f64) -> Result<GmfConfig, ConfigError> {
        if modalities.len() < 2 {
            return Err(ConfigError::Modalities(modalities.len()));
        }
        if multiple <= 2 {
            return Err(ConfigError::Multiple(multiple));
        }
        if !(boundary > 0.0 && boundary < 1.0) {
            return Err(ConfigError::Boundary(boundary));
        }
        for (i, modality) in modalities.iter().enumerate() {
            let name = &modality.name;
            if name.is_empty() || name.contains('.') || modalities[..i].iter().any(|m| m.name == *name) {
                return Err(ConfigError::Name(name.clone()));
            }
            if modality.length == 0 {
                return Err(ConfigError::Length(name.clone()));
            }
            if modality.length.checked_mul(multiple as usize).is_none_or(|l| l > MAX_PARAMETERS) {
                return Err(ConfigError::TooLarge);
            }
        }
        let config = GmfConfig { modalities, multiple, boundary };
        for (j, modality) in config.modalities.iter().enumerate() {
            let (boundary_row, dissociated) = (config.boundary_row(j), config.dissociated(j));
            if boundary_row == 0 || boundary_row == dissociated {
                return Err(ConfigError::EmptySide { modality: modality.name.clone(), dissociated, boundary });
            }
        }
        match config.count(|outputs, inputs| outputs.checked_mul(inputs)?.checked_add(outputs)) {
            Some(parameters) if parameters <= MAX_PARAMETERS => Ok(config),
            _ => Err(ConfigError::TooLarge),
        }
    }

    /// The paper's form for images and videos: `n = 4`, boundary ½.
    ///
    /// ```
    /// let config = reelseek::gmf::GmfConfig::image_video(128, 4096)?;
    /// assert_eq!((config.parameters(), config.invariant()), (119_202_816, 128));
    /// # Ok::<(), reelseek::gmf::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// As [`GmfConfig::new`].
    pub fn image_video(image: usize, video: usize) -> Result<GmfConfig, ConfigError> {
        let modality = |name: &str, length| Modality { name: name.to_owned(), length };
        GmfConfig::new(
            vec![modality("image", image), modality("video", video)],
            GmfConfig::MULTIPLE,
            GmfConfig::BOUNDARY,
        )
    }

    /// Names and feature lengths of the modalities.
    pub fn modalities(&self) -> &[Modality] {
        &self.modalities
    }

    /// The magnification n.
    pub fn multiple(&self) -> u32 {
        self.multiple
    }

    /// The share of the dissociated length that is invariant.
    pub fn boundary(&self) -> f64 {
        self.boundary
    }

    /// Length of the shared space, `l* = min l_j`.
    pub fn invariant(&self) -> usize {
        self.modalities.iter().map(|m| m.length).min().unwrap_or(0)
    }

    /// Dissociated length of modality `j`: `n·l_j`.
    pub fn dissociated(&self, j: usize) -> usize {
        self.multiple as usize * self.modalities[j].length
    }

    /// `b_j = ⌊boundary · n · l_j⌋` (Algorithm 2): earlier rows are invariant, later rows are specific.
    pub fn boundary_row(&self, j: usize) -> usize {
        (self.boundary * self.dissociated(j) as f64) as usize
    }

    /// Numbers of outputs and inputs of a layer.
    pub fn shape(&self, j: usize, layer: GmfLayer) -> (usize, usize) {
        let (l, shared) = (self.modalities[j].length, self.invariant());
        match layer {
            GmfLayer::Dissociate => (self.dissociated(j), l),
            GmfLayer::ConcentrateInvariant => (shared, self.boundary_row(j)),
            GmfLayer::ConcentrateSpecific => (l, self.dissociated(j) - self.boundary_row(j)),
            GmfLayer::Reconstruct => (l, shared + l),
        }
    }

    /// The modality whose invariant part rebuilds modality `j`: the next modality, cyclically (Eq. 17).
    pub fn next(&self, j: usize) -> usize {
        (j + 1) % self.modalities.len()
    }

    /// Number of weights and biases of all layers.
    pub fn parameters(&self) -> usize {
        self.count(|outputs, inputs| Some(outputs * inputs + outputs)).unwrap_or(usize::MAX)
    }

    /// Operations to pass one sample of every modality through the whole network; a multiply-add counts as
    /// two.
    pub fn flops(&self) -> usize {
        self.count(|outputs, inputs| Some(2 * outputs * inputs)).unwrap_or(usize::MAX)
    }

    fn count(&self, of: impl Fn(usize, usize) -> Option<usize>) -> Option<usize> {
        let mut sum = 0usize;
        for j in 0..self.modalities.len() {
            for layer in GmfLayer::ALL {
                let (outputs, inputs) = self.shape(j, layer);
                sum = sum.checked_add(of(outputs, inputs)?)?;
            }
        }
        Some(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_and_flops_match_the_paper() {
        let expected = [
            (128, 4096, 119_202_816, 0.238),
            (128, 128, 329_472, 0.001),
            (4096, 4096, 335_601_664, 0.671),
            (512, 512, 5_250_048, 0.010),
        ];
        for (image, video, parameters, giga) in expected {
            let config = GmfConfig::image_video(image, video).unwrap();
            assert_eq!(config.parameters(), parameters);
            assert!((config.flops() as f64 / 1e9 - giga).abs() < 6e-4, "{}", config.flops());
        }
    }

    #[test]
    fn rejects_impossible_forms_with_the_given_number() {
        let named = |lengths: &[(&str, usize)], multiple, boundary| {
            let modalities = lengths.iter().map(|(n, l)| Modality { name: (*n).to_owned(), length: *l }).collect();
            GmfConfig::new(modalities, multiple, boundary).unwrap_err()
        };
        let two = [("a", 4), ("b", 6)];
        assert_eq!(named(&[("a", 4)], 4, 0.5), ConfigError::Modalities(1));
        assert_eq!(named(&two, 2, 0.5), ConfigError::Multiple(2));
        for boundary in [0.0, 1.0, -0.5, f64::NAN, f64::INFINITY] {
            assert!(matches!(named(&two, 4, boundary), ConfigError::Boundary(_)), "{boundary}");
        }
        assert_eq!(named(&[("a", 0), ("b", 6)], 4, 0.5), ConfigError::Length("a".into()));
        assert_eq!(named(&[("a", 4), ("a", 6)], 4, 0.5), ConfigError::Name("a".into()));
        assert!(matches!(named(&[("a", 1), ("b", 6)], 3, 0.1), ConfigError::EmptySide { .. }));
        assert_eq!(named(&[("a", usize::MAX), ("b", 6)], 4, 0.5), ConfigError::TooLarge);
        assert_eq!(named(&[("a", 1 << 20), ("b", 1 << 20)], 4, 0.5), ConfigError::TooLarge);
        assert!(named(&two, 1, 0.5).to_string().contains("multiple is 1"));
    }
}
