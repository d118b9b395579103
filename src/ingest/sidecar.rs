//! The JSON file beside a video (`clip.mp4.json`): title, labels and other fields.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::fields::{FieldNames, MAX_NAME_BYTES};
use crate::base::files::{FileReadError, read_regular};
use crate::collection::{MAX_LABEL_BYTES, MAX_LABELS, MAX_TITLE_BYTES, cut};

/// Largest size of a sidecar in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Largest number of nested levels. The JSON parser stops at 128 levels, and the index adds some.
const MAX_DEPTH: usize = 32;

/// Most different names of fields.
const MAX_NAMES: usize = 100;
/// Largest size of a text in a field in bytes.
const MAX_TEXT_BYTES: usize = 10_000;
/// Largest size of all texts in fields in bytes. The index stores them with each video.
const MAX_TEXTS_BYTES: usize = 100_000;
/// Most values in fields: texts, numbers and so on.
const MAX_VALUES: usize = 10_000;

/// The contents of a sidecar.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Sidecar {
    pub(super) title: Option<String>,
    pub(super) labels: Vec<String>,
    pub(super) extra: Value,
    /// What exceeded a limit and was cut or left out.
    pub(super) left_out: Vec<String>,
}

/// Levels of nesting. The JSON parser bounds the recursion.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// What a value is, for errors.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Space that the values of a sidecar may still use.
struct ValueSpace {
    values: usize,
    bytes: usize,
    texts_cut: usize,
    values_removed: usize,
}

impl ValueSpace {
    /// Cuts texts and removes values that exceed the space. Returns whether the value is kept.
    fn take(&mut self, value: &mut Value) -> bool {
        if self.values == 0 {
            self.values_removed += 1;
            return false;
        }
        match value {
            Value::Array(values) => values.retain_mut(|value| self.take(value)),
            Value::Object(fields) => fields.retain(|_, value| self.take(value)),
            Value::String(text) => {
                self.values -= 1;
                self.texts_cut += usize::from(cut(text, self.bytes.min(MAX_TEXT_BYTES)));
                self.bytes -= text.len();
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => self.values -= 1,
        }
        true
    }
}

impl Sidecar {
    /// Cuts what exceeds a limit, and notes it.
    fn limited(mut self) -> Sidecar {
        let mut notes = Vec::new();
        if self.title.as_mut().is_some_and(|title| cut(title, MAX_TITLE_BYTES)) {
            notes.push(format!("title cut to {MAX_TITLE_BYTES} bytes"));
        }
        let surplus = self.labels.len().saturating_sub(MAX_LABELS);
        if surplus > 0 {
            self.labels.truncate(MAX_LABELS);
            notes.push(format!("labels left out: {surplus} (at most {MAX_LABELS} are stored)"));
        }
        let long = self.labels.iter_mut().map(|label| usize::from(cut(label, MAX_LABEL_BYTES))).sum::<usize>();
        if long > 0 {
            notes.push(format!("labels cut to {MAX_LABEL_BYTES} bytes: {long}"));
        }
        let removed = FieldNames::default().add(&mut self.extra, MAX_NAMES);
        if removed > 0 {
            notes.push(format!(
                "fields left out: {removed} (at most {MAX_NAMES} names, each of at most {MAX_NAME_BYTES} bytes)"
            ));
        }
        let mut space = ValueSpace { values: MAX_VALUES, bytes: MAX_TEXTS_BYTES, texts_cut: 0, values_removed: 0 };
        space.take(&mut self.extra);
        if space.texts_cut > 0 {
            let count = space.texts_cut;
            notes.push(format!("texts cut: {count} (at most {MAX_TEXT_BYTES} bytes each, {MAX_TEXTS_BYTES} together)"));
        }
        if space.values_removed > 0 {
            notes.push(format!("values left out: {} (at most {MAX_VALUES} are stored)", space.values_removed));
        }
        self.left_out = notes;
        self
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
    let value: Value = serde_json::from_slice(bytes).map_err(|e| format!("not JSON ({e})"))?;
    if depth(&value) > MAX_DEPTH {
        return Err(format!("nested deeper than {MAX_DEPTH} levels"));
    }
    let Value::Object(mut fields) = value else {
        return Err("not a JSON object like {\"title\": \"...\", \"labels\": [\"...\"]}".to_owned());
    };
    let title = match fields.remove("title") {
        None | Some(Value::Null) => None,
        Some(Value::String(title)) => Some(title),
        Some(other) => return Err(format!("`title` is {}, expected text", kind(&other))),
    };
    let mut labels = Vec::new();
    for key in ["label", "labels"] {
        match fields.remove(key) {
            None | Some(Value::Null) => {}
            Some(Value::String(label)) => labels.push(label),
            Some(Value::Array(values)) => {
                for value in values {
                    match value {
                        Value::String(label) => labels.push(label),
                        other => return Err(format!("`{key}` holds {}, expected text", kind(&other))),
                    }
                }
            }
            Some(other) => return Err(format!("`{key}` is {}, expected a list of texts", kind(&other))),
        }
    }
    Ok(Sidecar { title, labels, extra: Value::Object(fields), left_out: Vec::new() }.limited())
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
            let expected = Sidecar { title: Some(title), labels, extra, left_out: Vec::new() };
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
    fn what_exceeds_a_limit_is_left_out_with_a_note() {
        let labels: Vec<String> = (0..130).map(|i| format!("{i} {}", "é".repeat(i))).collect();
        let mut json = serde_json::json!({
            "title": "€".repeat(100_000), "labels": labels, "a text": "x".repeat(20_000), "list": vec!["y"; 20_000],
            "n".repeat(101): 1, "deep": {"deeper": {"text": "z".repeat(9_000)}},
        });
        (0..300).for_each(|i| json[format!("name{i}")] = i.into());
        let sidecar = parse(json.to_string().as_bytes()).unwrap();
        assert_eq!(sidecar.title.unwrap(), "€".repeat(333));
        assert_eq!(sidecar.labels.len(), 100);
        assert_eq!(sidecar.labels[99], format!("99 {}", "é".repeat(98)));
        let notes = sidecar.left_out.join("\n");
        for note in [
            "title cut to 1000 bytes",
            "labels left out: 30 (at most 100 are stored)",
            "labels cut to 200 bytes: 1",
            "fields left out: 206 (at most 100 names, each of at most 100 bytes)",
            "texts cut: 1 (at most 10000 bytes each, 100000 together)",
            "(at most 10000 are stored)",
        ] {
            assert!(notes.contains(note), "{note}: {notes}");
        }
        assert!(serde_json::to_string(&sidecar.extra).unwrap().len() < 200_000);
        let texts = serde_json::json!({ "texts": vec!["x".repeat(9_000); 100] }).to_string();
        let sidecar = parse(texts.as_bytes()).unwrap();
        assert!(serde_json::to_string(&sidecar.extra).unwrap().len() < 101_000);
        assert_eq!(sidecar.left_out, ["texts cut: 89 (at most 10000 bytes each, 100000 together)"]);
    }

    #[test]
    fn hostile_nesting_needs_little_stack_and_text() {
        let thread = std::thread::Builder::new().stack_size(1 << 20).spawn(|| {
            for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"a\":[", "]}]")] {
                for levels in [31, 33, 127, 129, 100_000] {
                    for json in [
                        format!("{{\"a\":{}1{}}}", open.repeat(levels), close.repeat(levels)),
                        format!("{{\"title\":{}1{}}}", open.repeat(levels), close.repeat(levels)),
                        format!("{{\"a\":{}", open.repeat(levels)),
                    ] {
                        if let Err(error) = parse(json.as_bytes()) {
                            assert!(error.len() < 200, "{error}");
                        }
                    }
                }
            }
        });
        thread.unwrap().join().unwrap();
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
