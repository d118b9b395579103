//! The gallery of a measurement: videos indexed into a folder that goes away with it.

use std::path::{Path, PathBuf};

use globset::GlobSet;

use super::talk;
use crate::base::Cancel;
use crate::encode::Encoder;
use crate::gmf::Folded;
use crate::ingest::{self, Event, Outcome, Plan, Summary};

/// Indexes the videos, and tells which of them the figures will know nothing of.
pub(super) fn make(
    folder: &Path,
    paths: &[PathBuf],
    encoder: &dyn Encoder,
    checkpoint: &Folded,
    cancel: &Cancel,
) -> anyhow::Result<Summary> {
    let plan = Plan {
        paths: paths.to_vec(),
        exclude: GlobSet::empty(),
        jobs: std::thread::available_parallelism().map_or(1, usize::from),
        keyframes: false,
        prune: false,
        retry: false,
        half: false,
        weights: None,
    };
    let mut failures = Vec::new();
    let summary = ingest::run(folder, &plan, encoder, checkpoint, cancel, |event| {
        if let Event::File { outcome: Outcome::Failed { reason }, .. } = event {
            failures.push(reason.clone());
        }
    })?;
    talk::failures(&failures);
    Ok(summary)
}
