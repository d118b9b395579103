//! Indexes with a kind space beside the scenes.

use std::collections::BTreeMap;

use reelseek_index::{Index, Searcher, Span};

use super::*;

/// A small network as the encoder of the kind space, and its name.
fn kind_encoder(folder: &TestFolder) -> String {
    folder.write("tiny.onnx", include_bytes!("../../reference/tiny.onnx"));
    folder.write("tiny.json", r#"{"shorter": 12, "rate_hz": 4.0}"#);
    format!("onnx:{}", folder.path("tiny.onnx").display())
}

/// Three clips and an index of them with both spaces.
fn indexed() -> TestFolder {
    let folder = TestFolder::with_clips();
    let encoder = kind_encoder(&folder);
    folder.index(&["--kind-encoder", &encoder]);
    folder
}

fn searcher(folder: &TestFolder, index: &str) -> Searcher {
    Index::open(folder.path(index)).unwrap().searcher().unwrap()
}

/// Spans, vectors and sketches of a video.
type VideoRows = (Vec<Span>, Vec<f32>, Vec<u8>);

/// The rows of each video, by title.
fn rows(folder: &TestFolder, index: &str) -> BTreeMap<String, VideoRows> {
    let searcher = searcher(folder, index);
    let rows = |number| {
        let (spans, vectors) = searcher.rows_of(number).unwrap().unwrap();
        (searcher.video(number).unwrap().title, (spans, vectors, searcher.sketches_of(number).unwrap().unwrap()))
    };
    searcher.video_numbers().into_iter().map(rows).collect()
}

fn titles(folder: &TestFolder, index: &str) -> Vec<String> {
    rows(folder, index).into_keys().collect()
}

/// Removes a video from one space.
fn drop_video(folder: &TestFolder, index: &str, title: &str) {
    let index = Index::open(folder.path(index)).unwrap();
    let searcher = index.searcher().unwrap();
    let id = searcher.videos().unwrap().into_iter().find(|video| video.title == title).unwrap().id;
    let mut writer = index.writer().unwrap();
    assert!(writer.remove(&id).unwrap());
    writer.commit().unwrap();
    writer.close().unwrap();
}

/// Title and space of each result.
fn found(reply: &Value) -> Vec<(&str, &str)> {
    let results = reply["results"].as_array().unwrap();
    results.iter().map(|found| (found["title"].as_str().unwrap(), found["match"].as_str().unwrap())).collect()
}

#[test]
fn both_spaces_hold_all_videos_and_scene_rows_are_those_of_an_index_without_kinds() {
    let folder = indexed();
    let output = folder.command(&["index", "@videos", "--match", "scene", "--index", "@alone"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(rows(&folder, "index"), rows(&folder, "alone"));
    assert!(!folder.path("alone/kind").exists());

    let kinds = rows(&folder, "index/kind");
    assert_eq!(kinds.keys().collect::<Vec<_>>(), ["bars", "cells", "zoom"]);
    for (title, (spans, vectors, sketches)) in kinds {
        assert!(!spans.is_empty() && spans.len() <= 13 && vectors.len() == 5 * spans.len(), "{title}: {spans:?}");
        assert!(sketches.is_empty());
        assert!(spans.windows(2).all(|pair| pair[1].start_ms >= pair[0].start_ms + 1000), "{title}: {spans:?}");
        assert!((11_900..=12_100).contains(&spans.last().unwrap().end_ms), "{title}: {spans:?}");
    }
    assert_eq!(folder.index(&[]).last().unwrap()["unchanged"], 3);
}

#[cfg(unix)]
#[test]
fn one_decoding_feeds_both_spaces_and_an_old_index_gets_kinds_without_new_scene_rows() {
    let folder = indexed();
    let (encoder, checkpoint) = (kind_encoder(&folder), "@index/kind/checkpoint.safetensors");
    let log = folder.path("log");
    let script = format!("echo run >> {}\nexec ffmpeg \"$@\"", log.display());
    let counting = fake_ffmpeg(&folder, &script);
    let run = |index: &str, more: &[&str]| {
        let mut command = folder.command(&[&["index", "@videos", "--json", "--index", index], more].concat());
        let output = command.env("REELSEEK_FFMPEG", &counting).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let runs = std::fs::read_to_string(&log).unwrap_or_default().lines().count();
        std::fs::remove_file(&log).ok();
        (json_lines(&output), runs)
    };
    let kind = ["--kind-encoder", &encoder, "--kind-checkpoint", checkpoint];
    assert_eq!(run("@both", &kind).1, 3);

    // An index of scenes, as earlier versions made it.
    assert_eq!(run("@old", &["--match", "scene"]).1, 3);
    let before = (folder.read("old/text/meta.json"), rows(&folder, "old"));
    let (events, runs) = run("@old", &kind);
    assert_eq!(runs, 3);
    let indexed = super::events(&events, "indexed");
    assert!(indexed.len() == 3 && indexed.iter().all(|e| e["rows"].as_u64() > Some(0)), "{events:?}");
    assert!(indexed.iter().all(|e| e["kind_rows"].as_u64() > Some(0)), "{events:?}");
    assert_eq!((folder.read("old/text/meta.json"), rows(&folder, "old")), before);
    assert_eq!(rows(&folder, "old/kind"), rows(&folder, "both/kind"));
    let (events, runs) = run("@old", &[]);
    assert_eq!((&events.last().unwrap()["unchanged"], runs), (&3.into(), 0));
}

#[test]
fn a_run_completes_the_space_that_an_interrupted_run_left_behind() {
    let folder = indexed();
    let (scenes, kinds) = (rows(&folder, "index"), rows(&folder, "index/kind"));
    // The scene space is committed first, so that the kind space lacks a new video.
    drop_video(&folder, "index/kind", "zoom");
    let events = folder.index(&[]);
    assert_eq!((&events.last().unwrap()["indexed"], &events.last().unwrap()["unchanged"]), (&1.into(), &2.into()));
    assert_eq!((rows(&folder, "index"), rows(&folder, "index/kind")), (scenes.clone(), kinds.clone()));

    // It still has a video that was removed.
    drop_video(&folder, "index", "zoom");
    let (_, reply) = folder.search(&folder.frame("zoom.mp4", "5", "zoom.png"), &["--match", "kind"]);
    assert!(found(&reply).iter().all(|(title, _)| *title != "zoom"), "{reply}");
    std::fs::rename(folder.videos().join("zoom.mp4"), folder.path("zoom.mp4")).unwrap();
    folder.index(&[]);
    assert_eq!(titles(&folder, "index/kind"), ["bars", "cells"]);
    std::fs::rename(folder.path("zoom.mp4"), folder.videos().join("zoom.mp4")).unwrap();
    folder.index(&[]);
    assert_eq!((rows(&folder, "index"), rows(&folder, "index/kind")), (scenes, kinds));
}

#[test]
fn both_spaces_follow_changes_of_files_and_metadata() {
    let folder = indexed();
    folder.sidecar("cells.mkv", r#"{"labels":["biology"]}"#);
    assert_eq!(folder.index(&[]).last().unwrap()["indexed"], 1);
    for matching in ["scene", "kind", "both"] {
        let picture = folder.frame("zoom.mp4", "5", "query.png");
        let (_, reply) = folder.search(&picture, &["--match", matching, "--filter", "label:biology"]);
        assert_eq!(found(&reply).iter().map(|(title, _)| *title).collect::<Vec<_>>(), ["cells"], "{reply}");
    }

    // A run for scenes removes the outdated kinds of a changed file, and a later run adds the new ones.
    folder.clip(CELLS, 6, "bars.avi");
    folder.index(&["--match", "scene"]);
    assert_eq!(
        (titles(&folder, "index").len(), titles(&folder, "index/kind")),
        (3, vec!["cells".into(), "zoom".into()])
    );
    folder.index(&[]);
    let (spans, ..) = rows(&folder, "index/kind").remove("bars").unwrap();
    assert!((5900..=6100).contains(&spans.last().unwrap().end_ms), "{spans:?}");

    std::fs::remove_file(folder.videos().join("bars.avi")).unwrap();
    assert_eq!(folder.index(&["--prune", "--match", "scene"]).last().unwrap()["removed"], 1);
    folder.success(&["remove", "@videos/cells.mkv"]);
    assert_eq!((titles(&folder, "index"), titles(&folder, "index/kind")), (vec!["zoom".into()], vec!["zoom".into()]));
    let compacted = folder.success(&["compact"]);
    assert_eq!(text(&compacted.stdout).lines().count(), 2);
    folder.success(&["verify"]);
}

#[test]
fn results_name_their_space_and_scenes_rank_first() {
    let folder = indexed();
    let picture = folder.frame("cells.mkv", "6", "query.png");
    let (_, scene) = folder.search(&picture, &["--match", "scene"]);
    let (_, kind) = folder.search(&picture, &["--match", "kind"]);
    let (_, both) = folder.search(&picture, &[]);
    assert!(found(&scene).iter().all(|(_, space)| *space == "scene") && scene["results"][0]["region"].is_array());
    assert!(found(&kind).iter().all(|(_, space)| *space == "kind") && kind["results"][0]["region"].is_null());
    assert_eq!(found(&scene)[0], ("cells", "scene"));
    assert_eq!(found(&both)[0], ("cells", "scene"), "{both}");
    let videos: Vec<&str> = found(&both).iter().map(|(title, _)| *title).collect();
    assert_eq!(videos.len(), 3, "each video once: {both}");
    assert!(found(&both)[1..].iter().any(|(_, space)| *space == "kind"), "{both}");
    let paths = folder.success(&["search", "@query.png", "--paths", "--top", "1"]);
    assert!(text(&paths.stdout).ends_with("cells.mkv\n"));
    // A clip is a query too.
    let (_, clip) = folder.search(&folder.videos().join("cells.mkv"), &[]);
    assert_eq!((found(&clip)[0], found(&clip).len()), (("cells", "scene"), 3), "{clip}");
}

#[test]
fn spaces_that_are_missing_or_made_by_another_encoder_are_errors() {
    let folder = TestFolder::with_clips();
    let encoder = kind_encoder(&folder);
    let refused = |arguments: &[&str], expected: &[&str]| {
        let output = folder.run(arguments);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        expected.iter().for_each(|part| assert!(message.contains(part), "{arguments:?}: {message}"));
    };
    let picture = folder.frame("zoom.mp4", "5", "query.png");
    // No index is left behind.
    for (name, expected) in [("layout", "layout"), ("nonsense", "unknown encoder"), ("onnx:none.onnx", "none.onnx")] {
        refused(&["index", "@videos", "--kind-encoder", name], &["kind space", expected]);
        assert!(!folder.path("index").exists());
    }
    folder.index(&["--match", "scene"]);
    refused(&["search", picture.to_str().unwrap(), "--match", "kind"], &["no kind space", "--kind-encoder"]);
    refused(&["index", "@videos", "--match", "scene", "--kind-encoder", &encoder], &["--match scene"]);
    folder.index(&["--kind-encoder", &encoder]);
    folder.write("tiny.json", "{}");
    let other = ["the kind space", "needs the encoder onnx:tiny/1+", "into another folder"];
    refused(&["index", "@videos", "--kind-encoder", &encoder], &other);
    refused(&["search", picture.to_str().unwrap()], &["the kind space", "--kind-weights"]);
    // Scenes need no learned encoder.
    assert_eq!(folder.search(&picture, &["--match", "scene"]).0, Some(0));
    folder.index(&["--match", "scene"]);

    let alone = ["index", "@videos", "--index", "@alone", "--encoder", &encoder];
    folder.success(&alone);
    refused(&[&alone[..], &["--kind-encoder", &encoder]].concat(), &["same kind of scene by itself"]);
    let (_, reply) = folder.search(&picture, &["--index", folder.path("alone").to_str().unwrap()]);
    assert_eq!(found(&reply)[0], ("zoom", "kind"));
    let scene = ["search", "@query.png", "--index", "@alone", "--match", "scene"];
    refused(&scene, &["no scene space", "--match scene"]);
}
