//! `kinds` and `quality`: complete and incomplete measurements.

use super::*;

/// Three clips of different classes, and four photographs: one with the class of a clip, one with only the
/// group of a clip, one of a clip but with a class of no clip, and one that shows no clip.
fn kinds() -> TestFolder {
    let folder = TestFolder::with_clips();
    let shown = |rows: &[(&str, &str, &str)]| {
        let line = |(path, class, group): &(&str, &str, &str)| {
            format!("{}\n", serde_json::json!({ "path": path, "class": class, "group": group }))
        };
        rows.iter().map(line).collect::<String>()
    };
    let videos = [("zoom.mp4", "fractal", "shapes"), ("cells.mkv", "cells", "life"), ("bars.avi", "bars", "signal")];
    folder.write("videos/manifest.jsonl", shown(&videos));
    folder.frame("zoom.mp4", "5", "photos/zoom.png");
    folder.frame("cells.mkv", "6", "photos/cells.png");
    folder.frame("bars.avi", "5", "photos/bars.png");
    // A gradient of grey, which no clip shows.
    let sweep: Vec<u8> = (0..64 * 64u32).map(|i| (i % 64 * 4) as u8).collect();
    folder.write("photos/sweep.pgm", [&b"P5 64 64 255\n"[..], &sweep].concat());
    let photographs = [
        ("zoom.png", "fractal", "shapes"),
        ("cells.png", "mould", "life"),
        ("bars.png", "negative", "nothing"),
        ("sweep.pgm", "negative", "nothing"),
    ];
    folder.write("photos/manifest.jsonl", shown(&photographs));
    folder
}

/// The command `kinds` on the clips and photographs of [`kinds`].
fn command(folder: &TestFolder, more: &[&str]) -> Command {
    folder.command(&[&["kinds", "@videos", "--images", "@photos"], more].concat())
}

#[test]
fn kinds_measures_classes_groups_and_photographs_without_match() {
    let folder = kinds();
    let output = command(&folder, &["--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let rows = json_lines(&output);
    let [row] = &rows[..] else { panic!("layout alone is at hand: {rows:?}") };
    assert!(row["encoder"].as_str().unwrap().starts_with("layout/"), "{row}");
    assert_eq!((&row["normaliser"], &row["gallery"], &row["failed"]), (&"hits".into(), &3.into(), &0.into()));
    // No video has the class `mould`, but one has its group.
    assert_eq!((&row["class"]["queries"], &row["group"]["queries"]), (&1.into(), &2.into()));
    for by in ["class", "group"] {
        let worth = ["map10", "map10_min", "success1", "success5"].map(|key| row[by][key].as_f64().unwrap());
        assert_eq!(worth, [1.0; 4], "{row}");
    }
    // A video shows the bars, although no video has their class; no video shows the gradient.
    assert_eq!(row["no_match"], serde_json::json!({ "queries": 2, "falsely": 1 }));

    let output = command(&folder, &["--normaliser", "min"]).output().unwrap();
    let table = text(&output.stdout);
    assert!(table.contains("mAP@10 with normaliser `min`") && table.contains(" 1/2 "), "{table}");
}

#[test]
fn kinds_of_a_learned_encoder_are_measured() {
    let weights = test_data("weights/mobilenet_v2_1.0_224.safetensors");
    if !weights.exists() {
        return crate::support::skip(format_args!("{} is missing", weights.display()));
    }
    let folder = kinds();
    let named = format!("mobilenet-v2={}", weights.display());
    let output = command(&folder, &["--json", "--weights", &named]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let [layout, learned] = &json_lines(&output)[..] else { panic!("two are at hand: {}", text(&output.stdout)) };
    assert_eq!(layout["checkpoint"], "embedded GMF");
    assert_eq!((&layout["match"], &learned["match"]), (&"both".into(), &"both".into()));
    assert!(learned["encoder"].as_str().unwrap().starts_with("mobilenet-v2/1+"), "{learned}");
    assert_eq!((&learned["group"]["success1"], &learned["no_match"]["queries"]), (&1.0.into(), &2.into()));
    // Three videos are too few for a fit.
    assert_eq!(learned["checkpoint"], "random directions beside those of few videos");
    assert!(text(&output.stderr).contains("3 videos with "), "{}", text(&output.stderr));
}

#[test]
fn broken_weights_are_reported_and_stop_no_other_encoder() {
    let folder = kinds();
    let weights = "cache/mobilenet-v2/model.safetensors";
    folder.write(weights, "not a network");
    let output = command(&folder, &["--json"]).output().unwrap();
    let message = text(&output.stderr);
    assert_eq!((output.status.code(), json_lines(&output).len()), (Some(2), 1), "{message}");
    assert!(
        message.contains("measuring mobilenet-v2") && message.contains(folder.path(weights).to_str().unwrap()),
        "{message}"
    );
}

#[test]
fn videos_that_failed_are_reported_with_the_figures() {
    let folder = kinds();
    folder.write("videos/cells.mkv", "no video");
    let output = command(&folder, &["--json"]).output().unwrap();
    let row = &json_lines(&output)[0];
    assert_eq!((&row["gallery"], &row["failed"]), (&2.into(), &1.into()));
    assert!(text(&output.stderr).contains("failed: ") && text(&output.stderr).contains("cells.mkv"));

    let quality = |more: &[&str]| folder.run(&[&["quality", "@videos", "--frames", "1"], more].concat());
    let output = quality(&["--json"]);
    assert_eq!((&json_lines(&output)[0]["gallery"], &json_lines(&output)[0]["failed"]), (&2.into(), &1.into()));
    assert!(text(&output.stderr).contains("failed: "), "{}", text(&output.stderr));
    assert!(text(&quality(&[]).stdout).contains("not in the gallery: 1 video that could not be indexed"));
}

/// Ctrl-C during indexing: an incomplete gallery must not be measured.
#[cfg(target_os = "linux")]
#[test]
fn an_interrupted_measurement_prints_no_figures() {
    let folder = kinds();
    let quality = folder.command(&["quality", "@videos", "--json"]);
    for (n, mut command) in [command(&folder, &["--json"]), quality].into_iter().enumerate() {
        let pid = folder.path(&format!("pid{n}"));
        // The decoder never ends. After the interrupt ends it, no other video may be started.
        let stub = fake_ffmpeg(&folder, &format!("echo $$ > {}\nexec sleep 600", pid.display()));
        command.env("REELSEEK_FFMPEG", &stub).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        wait_for_line(&pid);
        send_signal(&child, Signal::INT);
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            (output.status.code(), text(&output.stdout)),
            (Some(130), String::new()),
            "{}",
            text(&output.stderr)
        );
    }
}
