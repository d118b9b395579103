//! Manifests: files with one JSON object a line.

use std::path::Path;

use serde::de::DeserializeOwned;

/// Reads a manifest; an error describes the first fault. Empty lines are skipped.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(i, line)| serde_json::from_str(line).map_err(|e| format!("line {}: {e}", i + 1))).collect()
}
