//! Which encoder and which checkpoint: the same arguments for every command that indexes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use globset::GlobSet;

use crate::base::Cancel;
use crate::encode::Encoder;
use crate::gmf::Folded;
use crate::ingest;

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
    fn named(&self) -> ingest::Model {
        let Model { encoder, weights, checkpoint } = self;
        ingest::Model { encoder: encoder.clone(), weights: weights.clone(), checkpoint: checkpoint.clone() }
    }

    /// The weights that the arguments name.
    pub(super) fn weights(&self) -> Option<PathBuf> {
        self.named().weights()
    }

    /// The encoder, and a checkpoint for it. `folder` may hold an index already; what `exclude` matches is not looked at.
    pub(super) fn open(
        &self,
        folder: &Path,
        paths: &[PathBuf],
        exclude: &GlobSet,
        cancel: &Cancel,
    ) -> anyhow::Result<(Arc<dyn Encoder>, Folded)> {
        Ok(self.named().open_but(folder, (paths, exclude), cancel, say)?)
    }
}

/// Tells the person what takes long.
pub(super) fn say(what: &str) {
    eprintln!("{what}");
}
