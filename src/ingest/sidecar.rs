//! The JSON file beside a video (`clip.mp4.json`): title, labels and other fields.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::base::files::{FileReadError, read_regular};

/// Largest size of a sidecar in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Largest number of nested levels. The JSON parser stops at 128 levels, and the index adds some.
const MAX_DEPTH: usize = 32;

/// The contents of a sidecar.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Sidecar {
    pub(super) title: Option<String>,
    pub(super) labels: Vec<String>,
    pub(super) extra: serde_json::Value,
}

/// Levels of nesting.
fn depth(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
        serde_json::Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Path of a video's sidecar, whether it exists or not.
pub(super) fn beside(video: &Path) -> PathBuf {
    let mut name = OsString::from(video);
    name.push(".json");
    PathBuf::from(name)
}

/// Reads the sidecar of a video, if there is one.
///
/// # Errors
/// A sentence that names the sidecar and what is wrong with it.
pub(super) fn read(video: &Path) -> Result<Option<Sidecar>, String> {
    let path = beside(video);
    let wrong = |what: String| format!("its sidecar {} is ignored: {what}", path.display());
    match read_regular(&path, MAX_BYTES) {
        Ok(bytes) => parse(&bytes).map(Some).map_err(wrong),
        Err(FileReadError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(wrong(error.to_string())),
    }
}

/// The labels in the sidecar of a video; none if there is no readable sidecar.
#[cfg(feature = "research")]
pub(crate) fn labels(video: &Path) -> Vec<String> {
    read(video).ok().flatten().map_or(Vec::new(), |sidecar| sidecar.labels)
}

pub(super) fn parse(bytes: &[u8]) -> Result<Sidecar, String> {
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| format!("not JSON ({e})"))?;
    if depth(&value) > MAX_DEPTH {
        return Err(format!("nested deeper than {MAX_DEPTH} levels"));
    }
    let serde_json::Value::Object(mut fields) = value else {
        return Err("not a JSON object like {\"title\": \"...\", \"labels\": [\"...\"]}".to_owned());
    };
    let title = match fields.remove("title") {
        None | Some(serde_json::Value::Null) => None,
        Some(serde_json::Value::String(title)) => Some(title),
        Some(other) => return Err(format!("`title` is {other}, expected text")),
    };
    let mut labels = Vec::new();
    for key in ["label", "labels"] {
        match fields.remove(key) {
            None | Some(serde_json::Value::Null) => {}
            Some(serde_json::Value::String(label)) => labels.push(label),
            Some(serde_json::Value::Array(values)) => {
                for value in values {
                    match value {
                        serde_json::Value::String(label) => labels.push(label),
                        other => return Err(format!("`{key}` holds {other}, expected text")),
                    }
                }
            }
            Some(other) => return Err(format!("`{key}` is {other}, expected a list of texts")),
        }
    }
    Ok(Sidecar { title, labels, extra: serde_json::Value::Object(fields) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn title_labels_and_other_fields_are_kept(
            title in any::<String>(), labels in prop::collection::vec(any::<String>(), 0..4), other in any::<i64>(),
        ) {
            let json = serde_json::json!({ "title": title, "labels": labels, "other": other });
            let extra = serde_json::json!({ "other": other });
            let expected = Sidecar { title: Some(title), labels, extra };
            prop_assert_eq!(parse(json.to_string().as_bytes()), Ok(expected));
        }

        #[test]
        fn nesting_is_limited(levels in 1..120usize) {
            let json = format!("{{\"a\":{}1{}}}", "[".repeat(levels), "]".repeat(levels));
            prop_assert_eq!(parse(json.as_bytes()).is_ok(), levels < MAX_DEPTH);
        }
    }

    #[test]
    fn reads_title_labels_and_other_fields() {
        let sidecar = parse(br#"{"title":"Sea","label":"surf","labels":["beach"],"camera":"x"}"#).unwrap();
        assert_eq!(sidecar.title.as_deref(), Some("Sea"));
        assert_eq!(sidecar.labels, ["surf", "beach"]);
        assert_eq!(sidecar.extra, serde_json::json!({"camera": "x"}));
    }

    #[test]
    fn names_the_error_in_a_sidecar() {
        for (bytes, word) in
            [(&b"{"[..], "JSON"), (b"[1]", "object"), (b"{\"title\":3}", "title"), (b"{\"labels\":[1]}", "labels")]
        {
            let error = parse(bytes).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
