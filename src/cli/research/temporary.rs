//! A temporary index to measure on.

use std::path::PathBuf;

use crate::base::Cancel;
use crate::cli::advice;
use crate::cli::terminal;
use crate::ingest::{FileOutcome, IndexEvent, IndexSummary, Indexer};

/// Indexes the videos, and prints which of them failed.
pub(super) fn index(indexer: &Indexer, cancel: &Cancel) -> anyhow::Result<IndexSummary> {
    let mut failures = Vec::new();
    let summary = indexer.run(cancel, |event| {
        if let IndexEvent::File { outcome: FileOutcome::Failed { error, kept }, .. } = &event {
            failures.push(advice::failed_file(error, *kept));
        }
    })?;
    terminal::print_failures(&failures);
    Ok(summary)
}

/// The folder of the index in a temporary folder.
pub(super) fn folder(temporary: &tempfile::TempDir) -> PathBuf {
    temporary.path().join("index")
}
