//! Files from other sources: annotations of ActivityNet, and features of other programs.

use serde_json::Value;

use super::Noise;
use crate::support::{TestFolder, npy, output_text};

#[test]
fn takes_labels_and_splits_from_annotations() {
    let folder = TestFolder::with_features();
    let mut database = serde_json::Map::new();
    for name in ["images", "videos"] {
        let lines = folder.read_text(&format!("features/{name}.jsonl"));
        for line in lines.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let subset = if line["split"] == "test" { "validation" } else { "training" };
            let annotation = serde_json::json!([{"segment": [0.0, 1.0], "label": line["label"]}]);
            database.insert(
                line["video"].as_str().unwrap().to_owned(),
                serde_json::json!({"duration": 2.0, "subset": subset, "annotations": annotation}),
            );
        }
        // The lines have no label and no split, because the annotations give both.
        let bare = lines.lines().map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            format!("{}\n", serde_json::json!({"id": line["id"], "video": line["video"]}))
        });
        folder.write(&format!("bare/{name}.jsonl"), bare.collect::<String>());
        folder.write(&format!("bare/{name}.npy"), folder.read(&format!("features/{name}.npy")));
    }
    folder.write("annotations.json", serde_json::json!({"version": "t", "database": database}).to_string());
    let words = ["eval", "--features", "@bare", "--activitynet", "@annotations.json", "--method", "ridge", "--json"];
    let found = folder.json(&words);
    assert_eq!((&found["queries"], &found["rows"]), (&200.into(), &200.into()));
    assert!(found["map"]["10"].as_f64().unwrap() > 0.5, "{found}");
    // Rows named by files, as `extract` names the rows of whole videos.
    for name in ["images", "videos"] {
        let lines = folder.read_text(&format!("bare/{name}.jsonl"));
        let named = lines.lines().map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            let file = format!("/films/{}.mp4", line["video"].as_str().unwrap());
            format!(
                "{}\n",
                serde_json::json!({"id": format!("{file}:{}", line["id"].as_str().unwrap()), "video": file})
            )
        });
        folder.write(&format!("files/{name}.jsonl"), named.collect::<String>());
        folder.write(&format!("files/{name}.npy"), folder.read(&format!("bare/{name}.npy")));
    }
    let words_of_files = words.map(|word| if word == "@bare" { "@files" } else { word });
    let files = folder.json(&words_of_files);
    // The names determine the held-out rows, so the fitted maps and the mAP differ.
    assert_eq!(
        ["queries", "rows", "gallery"].map(|key| &files[key]),
        ["queries", "rows", "gallery"].map(|key| &found[key])
    );
    assert!(files["map"]["10"].as_f64().unwrap() > 0.5, "{files}");
    let without = folder.run(&["eval", "--features", "@bare"]);
    assert!(output_text(&without).contains("no split"), "{}", output_text(&without));
    let lines = folder.read_text("bare/images.jsonl");
    folder.write("bare/images.jsonl", lines.replace("images5\"", "strange\""));
    let unknown = folder.run(&words);
    assert!(
        output_text(&unknown).contains("line 6: video strange is not in the annotations"),
        "{}",
        output_text(&unknown)
    );
    assert!(!output_text(&unknown).contains("expected"), "{}", output_text(&unknown));
}

/// Features of another program: for each video an array for images and one for clips, read for the rows of a
/// benchmark.
#[test]
fn builds_a_feature_set_from_archives() {
    let folder = TestFolder::new();
    let mut noise = Noise(5);
    let mut database = serde_json::Map::new();
    for i in 0..120usize {
        let (id, class) = (format!("video{i:06}"), i % 3);
        let subset = if i % 2 == 0 { "training" } else { "validation" };
        let annotation = serde_json::json!([{"segment": [1.0, 4.0], "label": format!("class {class}")}]);
        database.insert(id.clone(), serde_json::json!({"duration": 8.0, "subset": subset, "annotations": annotation}));
        if i % 10 == 9 {
            continue; // no longer on the web
        }
        for (kind, length) in [("images", 5), ("videos", 9)] {
            let row: Vec<f32> =
                (0..2 * length).map(|j| ((class * 5 + j % length * 3) % 7) as f32 + 0.3 * noise.next()).collect();
            folder.write(&format!("{kind}/v_{id}.npy"), npy(2, length, &row));
        }
    }
    folder.write("annotations.json", serde_json::json!({"version": "t", "database": database}).to_string());
    let listed = folder.success(&[
        "dataset",
        "activitynet",
        "--annotations",
        "@annotations.json",
        "--have",
        "@videos",
        "--out",
        "@list.jsonl",
        "--missing",
        "@missing.txt",
    ]);
    assert!(output_text(&listed).contains("lacks 12 videos of the benchmark"), "{}", output_text(&listed));
    assert_eq!(folder.read_text("missing.txt").lines().count(), 12);
    let archives = ["--image-features", "@images", "--video-features", "@videos"];
    let extract = |out| [&["extract", "--benchmark", "@list.jsonl", "--out", out][..], &archives].concat();
    folder.success(&extract("@features"));
    let found = folder.measure(&["--method", "cca"]);
    assert!(found["map"]["10"].as_f64().unwrap() > 0.9, "{found}");
    let again = folder.run(&extract("@features"));
    assert!(again.status.code() == Some(2) && output_text(&again).contains("--force"), "{}", output_text(&again));
    folder.write("videos/v_video000000.npy", b"nonsense");
    let bad = folder.run(&extract("@other"));
    assert!(bad.status.code() == Some(2) && output_text(&bad).contains("v_video000000.npy"), "{}", output_text(&bad));
    assert_eq!(std::fs::read_dir(folder.path("other")).unwrap().count(), 0, "nothing half written is left");
}
