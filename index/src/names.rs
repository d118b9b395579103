//! Names of all files and folders of an index. No other module spells one.

/// Folder of the segment and graph files.
pub(crate) const SEGMENTS_DIR: &str = "segments";

/// Folder of the text index.
pub(crate) const TEXT_DIR: &str = "text";

/// Prefix of a text index under construction. The process id follows.
const NEW_TEXT_PREFIX: &str = "text.new.";

/// Root file of the index, in the text folder: tantivy's metadata, with the manifest as payload.
pub(crate) const META_FILE: &str = "meta.json";

/// Name of the file in which tantivy lists its files. It is in the text folder.
pub(crate) const MANAGED_FILE: &str = ".managed.json";

/// File that is locked while the index is created. A later creation may use it again.
pub(crate) const CREATION_LOCK: &str = "text.new.lock";

const SEGMENT_SUFFIX: &str = ".vec";
const GRAPH_SUFFIX: &str = ".hnsw";
const TEMPORARY_SUFFIX: &str = ".tmp";

/// Name of segment file `number`.
pub(crate) fn segment_name(number: u64) -> String {
    format!("{number:06}{SEGMENT_SUFFIX}")
}

/// Name of the graph file that belongs to a segment file.
pub(crate) fn graph_name(segment: &str) -> String {
    format!("{}{GRAPH_SUFFIX}", segment.strip_suffix(SEGMENT_SUFFIX).unwrap_or(segment))
}

/// Name of a file while it is written.
pub(crate) fn temporary_name(name: &str) -> String {
    format!("{name}{TEMPORARY_SUFFIX}")
}

/// Number in the name of a segment file; `None` for any other name.
pub(crate) fn segment_number(name: &str) -> Option<u64> {
    let number = name.strip_suffix(SEGMENT_SUFFIX)?.parse().ok()?;
    (segment_name(number) == name).then_some(number)
}

/// Whether a segment, its graph, or one of them while it is written can have this name.
pub(crate) fn is_segment_or_graph(name: &str) -> bool {
    let finished = name.strip_suffix(TEMPORARY_SUFFIX).unwrap_or(name);
    let segment = finished.strip_suffix(GRAPH_SUFFIX).map(|stem| format!("{stem}{SEGMENT_SUFFIX}"));
    segment_number(segment.as_deref().unwrap_or(finished)).is_some()
}

/// Whether tantivy names its temporary files like this: `.tmp` and six letters.
pub(crate) fn is_tantivy_temporary(name: &str) -> bool {
    name.strip_prefix(TEMPORARY_SUFFIX).is_some_and(|rest| rest.len() == 6)
}

/// Name of the text index that this process is creating.
pub(crate) fn new_text_dir() -> String {
    format!("{NEW_TEXT_PREFIX}{}", std::process::id())
}

/// Whether an interrupted creation may have left this name. Only the prefix is compared, because an engine
/// stores its checkpoint under such a name before the index exists.
pub(crate) fn is_creation_leftover(name: &str) -> bool {
    name.starts_with(NEW_TEXT_PREFIX)
}

/// Whether this is the name of a text index under construction, by any process.
pub(crate) fn is_new_text_dir(name: &str) -> bool {
    name.strip_prefix(NEW_TEXT_PREFIX).is_some_and(|id| id.parse::<u32>().is_ok())
}
