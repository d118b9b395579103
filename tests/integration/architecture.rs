//! The table of rooms in the tour (`src/lib.rs`): who may use whom.

use std::path::{Path, PathBuf};

/// Each room, and the rooms it may name after `crate::`. `seeded` and `tensors` belong to no room.
const EDGES: [(&str, &[&str]); 9] = [
    ("media", &[]),
    ("encode", &["media"]),
    ("features", &[]),
    ("gmf", &["features"]),
    ("search", &["media", "encode", "gmf"]),
    ("ingest", &["media", "encode", "features", "gmf", "search"]),
    ("eval", &["media", "encode", "features", "gmf", "search", "ingest"]),
    ("serve", &["media", "encode", "gmf", "search", "ingest"]),
    ("cli", &["media", "encode", "features", "gmf", "search", "ingest", "eval", "serve"]),
];
const HELPERS: [&str; 2] = ["seeded", "tensors"];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files
}

/// The first names after each `crate::` in code, those in braces too.
fn named(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    for line in text.lines().filter(|l| !l.trim_start().starts_with("//")) {
        for (at, _) in line.match_indices("crate::") {
            let rest = &line[at + "crate::".len()..];
            let list = rest.strip_prefix('{').map_or_else(|| vec![rest], |inner| inner.split(',').collect());
            for item in list {
                let name: String = item.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if !name.is_empty() {
                    names.push(name);
                }
            }
        }
    }
    names
}

#[test]
fn rooms_use_only_the_rooms_they_may() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in std::fs::read_dir(&root).unwrap() {
        let path = entry.unwrap().path();
        let room = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(!path.is_dir() || EDGES.iter().any(|(r, _)| *r == room), "room {room} is not in the table");
    }
    for (room, allowed) in EDGES {
        for file in sources(&root.join(room)) {
            for name in named(&std::fs::read_to_string(&file).unwrap()) {
                let fine = name == room || allowed.contains(&name.as_str()) || HELPERS.contains(&name.as_str());
                assert!(fine, "{} names crate::{name}, which {room} may not use", file.display());
            }
        }
    }
}

#[test]
fn the_reader_of_names_sees_what_it_must() {
    assert_eq!(
        named("use crate::{media, encode::LayoutEncoder};\nlet x = crate::gmf::fit;\n// crate::no"),
        ["media", "encode", "gmf"]
    );
}

#[test]
fn the_index_knows_nothing_of_the_engine() {
    for file in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("index/src")) {
        assert!(!std::fs::read_to_string(&file).unwrap().contains("use reelseek::"), "{}", file.display());
    }
}

#[test]
fn one_file_of_the_engine_has_unsafe_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let has = |file: &PathBuf| std::fs::read_to_string(file).unwrap().contains("allow(unsafe_code");
    let files: Vec<PathBuf> = sources(&root).into_iter().filter(has).collect();
    assert_eq!(files, [root.join("gmf/gemm.rs")]);
}
