//! Names of the fields of sidecars. The text index has a column for each name, also for names within fields,
//! and columns take time and memory.

use std::collections::HashSet;

use serde_json::Value;

/// Most names of fields in an index.
pub(super) const MAX_INDEX_NAMES: usize = 1000;
/// Largest size of a name in bytes.
pub(super) const MAX_NAME_BYTES: usize = 100;

/// Different names of fields.
#[derive(Debug, Default)]
pub(super) struct FieldNames(HashSet<String>);

impl FieldNames {
    /// Adds the names in a value. Removes fields from it whose names are too long, or are new while there are
    /// `limit` names already. Returns how many it removed.
    pub(super) fn add(&mut self, value: &mut Value, limit: usize) -> usize {
        self.add_below("", value, limit)
    }

    fn add_below(&mut self, parent: &str, value: &mut Value, limit: usize) -> usize {
        let mut removed = 0;
        match value {
            Value::Object(fields) => fields.retain(|name, value| {
                // The length keeps {"a.b": 1} and {"a": {"b": 1}} apart.
                let path = format!("{parent}{}.{name}", name.len());
                let is_kept = name.len() <= MAX_NAME_BYTES && (self.0.contains(&path) || self.0.len() < limit);
                if is_kept {
                    self.0.insert(path.clone());
                    removed += self.add_below(&path, value, limit);
                } else {
                    removed += 1;
                }
                is_kept
            }),
            Value::Array(values) => {
                removed += values.iter_mut().map(|value| self.add_below(parent, value, limit)).sum::<usize>();
            }
            _ => {}
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_name_counts_once_at_each_place() {
        let mut names = FieldNames::default();
        let mut value = json!({"a": [{"b": 1}, {"b": 2}, {"c": {"b": 3}}], "b": 4, "a.b": 5});
        let before = value.clone();
        assert_eq!((names.add(&mut value, 6), &value), (0, &before));
        assert_eq!(names.0.len(), 6, "{names:?}");
        assert_eq!((names.add(&mut value, 6), &value), (0, &before), "known names are kept");
        let mut value = json!({"b": 1, "new": 2, "a": {"new": {"new": 3}}});
        assert_eq!((names.add(&mut value, 6), value), (2, json!({"b": 1, "a": {}})));
    }

    #[test]
    fn long_names_are_removed() {
        let mut value = json!({"n".repeat(100): 1, "n".repeat(101): 2});
        assert_eq!(FieldNames::default().add(&mut value, 10), 1);
        assert_eq!(value, json!({"n".repeat(100): 1}));
    }
}
