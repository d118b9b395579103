//! The licences of training videos.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Error;
use crate::research::manifest;

/// The videos of a manifest, and whether their licence is permissive.
#[derive(Debug)]
pub struct LicenceManifest {
    permissive: HashMap<PathBuf, bool>,
}

#[derive(Deserialize)]
struct LicenceLine {
    /// Path of the video, relative to the manifest.
    path: PathBuf,
    license_of_repo: Option<String>,
}

impl LicenceManifest {
    /// Reads a manifest. Videos that do not exist are left out.
    ///
    /// # Errors
    /// [`Error::Manifest`] if it cannot be read or a line is invalid.
    pub fn read(path: &Path) -> Result<LicenceManifest, Error> {
        let lines: Vec<LicenceLine> =
            manifest::read(path).map_err(|reason| Error::Manifest { path: path.to_owned(), reason })?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut permissive = HashMap::new();
        for line in lines {
            let Ok(video) = folder.join(line.path).canonicalize() else { continue };
            // A video may have several licences.
            *permissive.entry(video).or_default() |= line.license_of_repo.as_deref().is_some_and(is_permissive);
        }
        Ok(LicenceManifest { permissive })
    }

    /// Whether a video may be used: its licence is permissive, or the manifest does not contain it.
    pub fn allows(&self, video: &Path) -> bool {
        video.canonicalize().ok().and_then(|video| self.permissive.get(&video).copied()).unwrap_or(true)
    }
}

/// MIT, BSD, Apache 2 and CC-BY, without restrictions such as `NC` or `ND`.
fn is_permissive(licence: &str) -> bool {
    let version = licence.strip_prefix("CC-BY-").and_then(|version| version.chars().next());
    matches!(licence, "MIT" | "BSD")
        || licence.starts_with("BSD-")
        || licence.starts_with("Apache-2")
        || version.is_some_and(|c| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_videos_need_a_permissive_licence() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        ["a.mp4", "b.mp4", "c.mp4", "d.mp4"].iter().for_each(|name| std::fs::write(path(name), "").unwrap());
        let lines = [
            r#"{"path": "a.mp4", "license_of_repo": "CC-BY-4.0"}"#,
            r#"{"path": "b.mp4", "license_of_repo": "CC-BY-NC-4.0"}"#,
            r#"{"path": "c.mp4", "license_of_repo": null}"#,
            r#"{"path": "gone.mp4", "license_of_repo": "MIT"}"#,
        ];
        std::fs::write(path("manifest.jsonl"), lines.join("\n")).unwrap();
        let manifest = LicenceManifest::read(&path("manifest.jsonl")).unwrap();
        assert_eq!(
            ["a.mp4", "b.mp4", "c.mp4", "d.mp4"].map(|name| manifest.allows(&path(name))),
            [true, false, false, true]
        );
        std::fs::write(path("manifest.jsonl"), format!("{}\n{{}}", lines[0])).unwrap();
        let error = LicenceManifest::read(&path("manifest.jsonl")).unwrap_err().to_string();
        assert!(error.contains("line 2: missing field `path`"), "{error}");
    }
}
