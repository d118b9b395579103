//! Which encoder and which checkpoint: the same for every command that indexes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use reelseek_index::Index;

use crate::encode::registry::{self, LAYOUT};
use crate::encode::{self, Encoder};
use crate::gmf::Folded;
use crate::ingest::closed_form;
use crate::media::{Cancel, Tools, walk};
use crate::search::{CHECKPOINT_FILE, ENCODER, WEIGHTS};

/// Videos, and frames of each, that a checkpoint is fitted to where there is none.
const SAMPLE: (usize, usize) = (256, 16);

#[derive(Debug, Args)]
pub(super) struct Model {
    /// Encoder of the features (`reelseek encoders` lists them; onnx:FILE is one of your own) [default: the one that the index has, or layout]
    #[arg(long, value_name = "NAME")]
    pub(super) encoder: Option<String>,
    /// The encoder's weights, if not those that `encoders pull` fetched
    #[arg(long, value_name = "FILE")]
    pub(super) weights: Option<PathBuf>,
    /// Folded checkpoint [default: the one that the index has; for layout the embedded one; for another encoder one fitted to these videos]
    #[arg(long, value_name = "FILE")]
    pub(super) checkpoint: Option<PathBuf>,
}

impl Model {
    /// The weights that the arguments name.
    pub(super) fn weights(&self) -> Option<PathBuf> {
        let own = || self.encoder.as_deref().and_then(registry::weights_in).map(Path::to_owned);
        self.weights.clone().or_else(own)
    }

    /// The encoder, and a checkpoint for it. `folder` may hold an index already.
    pub(super) fn open(
        &self,
        folder: &Path,
        paths: &[PathBuf],
        cancel: &Cancel,
    ) -> anyhow::Result<(Arc<dyn Encoder>, Folded)> {
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
            None => default_checkpoint(encoder.as_ref(), paths, cancel)?.0,
        };
        Ok((encoder, checkpoint))
    }
}

/// The checkpoint of an encoder where none is named, and what it is: the embedded one of layout, one fitted to the videos for another.
pub(super) fn default_checkpoint(
    encoder: &dyn Encoder,
    paths: &[PathBuf],
    cancel: &Cancel,
) -> anyhow::Result<(Folded, String)> {
    if encoder.about().name == LAYOUT {
        return Ok((Folded::embedded(), "embedded GMF".to_owned()));
    }
    eprintln!("fitting a checkpoint for {} to frames of these videos", encoder.about().name);
    let videos: Vec<PathBuf> = walk::videos(paths, &globset::GlobSet::empty()).into_iter().flatten().collect();
    let fitted = closed_form::of_videos(&Tools::find()?, encoder, &videos, SAMPLE, cancel)?;
    Ok((fitted, "principal directions".to_owned()))
}
