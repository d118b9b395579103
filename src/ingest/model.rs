//! Which encoder and which checkpoint an index is made with: the same for everybody who indexes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use reelseek_index::Index;

use super::{Error, closed_form};
use crate::encode::registry::{self, LAYOUT};
use crate::encode::{self, Encoder};
use crate::gmf::Folded;
use crate::media::{Cancel, Tools, walk};
use crate::search::{CHECKPOINT_FILE, ENCODER, WEIGHTS};

/// Videos, and frames of each, that a checkpoint is fitted to where there is none.
const SAMPLE: (usize, usize) = (256, 16);

/// What is named of it. Where nothing is: what the index has, or else [`LAYOUT`] with the embedded checkpoint.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// Encoder of the features.
    pub encoder: Option<String>,
    /// The encoder's weights.
    pub weights: Option<PathBuf>,
    /// Folded checkpoint.
    pub checkpoint: Option<PathBuf>,
}

impl Model {
    /// The weights that are named.
    pub fn weights(&self) -> Option<PathBuf> {
        let own = || self.encoder.as_deref().and_then(registry::weights_in).map(Path::to_owned);
        self.weights.clone().or_else(own)
    }

    /// The encoder, and a checkpoint for it. `folder` may hold an index already; `paths` are what will be indexed. `tell` hears of what takes long.
    ///
    /// # Errors
    /// [`enum@Error`] if there is no such encoder or checkpoint, or none can be fitted.
    pub fn open(
        &self,
        folder: &Path,
        paths: &[PathBuf],
        cancel: &Cancel,
        tell: impl FnOnce(&str),
    ) -> Result<(Arc<dyn Encoder>, Folded), Error> {
        let attributes = match Index::exists(folder) {
            true => Index::open(folder)?.settings().attributes.clone(),
            false => Default::default(),
        };
        let named = attributes.get(ENCODER).and_then(|id| id.split('/').next());
        let name = self.encoder.as_deref().or(named).unwrap_or(LAYOUT);
        let weights = self.weights().or_else(|| attributes.get(WEIGHTS).map(PathBuf::from));
        let encoder = encode::open(name, weights.as_deref())?;
        let own = folder.join(CHECKPOINT_FILE);
        let checkpoint = match &self.checkpoint {
            Some(path) => Folded::open(path)?,
            None if !attributes.is_empty() && own.exists() => Folded::open(&own)?,
            None => default_checkpoint(encoder.as_ref(), paths, cancel, tell)?.0,
        };
        Ok((encoder, checkpoint))
    }
}

/// The checkpoint of an encoder where none is named, and what it is: the embedded one of layout, one fitted to the videos for another.
///
/// # Errors
/// [`enum@Error`] if none can be fitted.
pub fn default_checkpoint(
    encoder: &dyn Encoder,
    paths: &[PathBuf],
    cancel: &Cancel,
    tell: impl FnOnce(&str),
) -> Result<(Folded, String), Error> {
    if encoder.about().name == LAYOUT {
        return Ok((Folded::embedded(), "embedded GMF".to_owned()));
    }
    tell(&format!("fitting a checkpoint for {} to frames of these videos", encoder.about().name));
    let videos: Vec<PathBuf> = walk::videos(paths, &globset::GlobSet::empty()).into_iter().flatten().collect();
    let fitted = closed_form::of_videos(&Tools::find()?, encoder, &videos, SAMPLE, cancel)?;
    Ok((fitted, "principal directions".to_owned()))
}
