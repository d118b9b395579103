//! Manifests: files with one JSON object a line.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::base::files;

/// Size of the largest manifest that is read, in bytes.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Reads a manifest; an error describes the first fault. Empty lines are skipped.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, String> {
    let bytes = files::read(path, MAX_FILE_BYTES).map_err(|e| e.to_string())?;
    let text = String::from_utf8(bytes).map_err(|e| e.to_string())?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(i, line)| serde_json::from_str(line).map_err(|e| format!("line {}: {e}", i + 1))).collect()
}
