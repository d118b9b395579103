use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Error;
use crate::encode::Encoder;
use crate::encode::registry::{self, LAYOUT};
use crate::gmf::Folded;

/// The encoder, weights and checkpoint that a caller names. A field that is `None` is taken from the index; a
/// new index uses the encoder `layout` and its embedded checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelChoice {
    /// Name of the encoder.
    pub encoder: Option<String>,
    /// File of the encoder's weights.
    pub weights: Option<PathBuf>,
    /// File of a folded checkpoint.
    pub checkpoint: Option<PathBuf>,
}

impl ModelChoice {
    /// The weights that the caller names: by `weights`, or else in the encoder's name (`onnx:FILE`).
    pub fn named_weights(&self) -> Option<PathBuf> {
        let in_name = || self.encoder.as_deref().and_then(registry::onnx_path).map(Path::to_owned);
        self.weights.clone().or_else(in_name)
    }

    /// Opens the encoder and the checkpoint for a new index. `default` makes the checkpoint if none is named.
    ///
    /// # Errors
    /// [`Error::Encoder`] if the encoder is unknown or its weights cannot be used; [`Error::Checkpoint`] if
    /// the checkpoint cannot be read; any error of `default`.
    pub fn open<E: From<Error>>(&self, default: impl FnOnce(&dyn Encoder) -> Result<Folded, E>) -> Result<Model, E> {
        let name = self.encoder.as_deref().unwrap_or(LAYOUT);
        let named = self.checkpoint.as_deref().map(Folded::open).transpose().map_err(Error::from)?;
        // A renamed ONNX file is recognised by the id that the checkpoint recorded.
        let known = named.as_ref().map(|checkpoint| checkpoint.record.encoder.as_str());
        let weights = self.named_weights();
        let encoder = registry::open_known(name, weights.as_deref(), known).map_err(Error::from)?;
        let checkpoint = named.map_or_else(|| default(encoder.as_ref()), Ok)?;
        Ok(Model { encoder, checkpoint, weights })
    }
}

/// The choices for both spaces of an index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelChoices {
    /// For the index itself.
    pub scene: ModelChoice,
    /// For its kind space.
    pub kind: ModelChoice,
}

/// An encoder and a checkpoint for it, which together make vectors.
#[derive(Debug, Clone)]
pub struct Model {
    /// Makes features of pictures and clips.
    pub encoder: Arc<dyn Encoder>,
    /// Maps features to vectors.
    pub checkpoint: Folded,
    /// File of the encoder's weights, if the caller or the index names one.
    pub weights: Option<PathBuf>,
}
