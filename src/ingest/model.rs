//! Which encoder and which checkpoint an index is made with: the same for everybody who indexes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use globset::GlobSet;
use reelseek_index::Index;

use super::{Error, closed_form, settle};
use crate::base::Cancel;
use crate::encode::registry::{self, LAYOUT};
use crate::encode::{self, Encoder};
use crate::gmf::Folded;
use crate::media::{Tools, walk};
use crate::search::{CHECKPOINT, CHECKPOINT_FILE, ENCODER, WEIGHTS};

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
        tell: impl FnMut(&str),
    ) -> Result<(Arc<dyn Encoder>, Folded), Error> {
        self.open_but(folder, (paths, &GlobSet::empty()), cancel, tell)
    }

    /// As [`Model::open`], where what `exclude` matches is left out.
    ///
    /// # Errors
    /// As there.
    pub fn open_but(
        &self,
        folder: &Path,
        (paths, exclude): (&[PathBuf], &GlobSet),
        cancel: &Cancel,
        tell: impl FnMut(&str),
    ) -> Result<(Arc<dyn Encoder>, Folded), Error> {
        let mut attributes = BTreeMap::new();
        if Index::exists(folder) {
            let index = Index::open(folder)?;
            settle(folder, &index)?;
            attributes.clone_from(&index.settings().attributes);
        }
        let recorded = attributes.get(ENCODER);
        let name = self.encoder.as_deref().or(recorded.and_then(|id| id.split('/').next())).unwrap_or(LAYOUT);
        let weights = self.weights().or_else(|| attributes.get(WEIGHTS).map(PathBuf::from));
        let named = self.checkpoint.as_deref().map(Folded::open).transpose()?;
        // A file that was renamed is known by what is in it.
        let known = recorded.or(named.as_ref().map(|checkpoint| &checkpoint.record.encoder)).map(String::as_str);
        let encoder = encode::open_known(name, weights.as_deref(), known)?;
        // Before anything is fitted: it would be of no use.
        if let Some(recorded) = recorded {
            registry::expect(recorded, encoder.as_ref(), "the index")?;
        }
        let own = folder.join(CHECKPOINT_FILE);
        let checkpoint = match (named, attributes.get(CHECKPOINT)) {
            (Some(checkpoint), _) => checkpoint,
            (None, Some(_)) if own.exists() => Folded::open(&own)?,
            (None, Some(made_with)) if *made_with != Folded::embedded().fingerprint() => {
                return Err(Error::NoCheckpoint { path: own, fingerprint: made_with.clone() });
            }
            _ => default_checkpoint(encoder.as_ref(), (paths, exclude), cancel, tell)?.0,
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
    (paths, exclude): (&[PathBuf], &GlobSet),
    cancel: &Cancel,
    mut tell: impl FnMut(&str),
) -> Result<(Folded, String), Error> {
    if encoder.about().name == LAYOUT {
        return Ok((Folded::embedded(), "embedded GMF".to_owned()));
    }
    let tools = Tools::find()?;
    tell(&format!("fitting a checkpoint for {} to frames of these videos", encoder.about().name));
    let videos: Vec<PathBuf> = walk::videos(paths, exclude).into_iter().flatten().collect();
    let fitted = closed_form::of_videos(&tools, encoder, &videos, cancel, tell)?;
    let what = fitted.record.training["start"].as_str().unwrap_or_default().to_owned();
    Ok((fitted, what))
}
