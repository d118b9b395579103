//! The binary on clips that ffmpeg makes, and on the test data if it is available.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::support::*;

mod failures;
mod first_steps;
mod kinds;
#[cfg(target_os = "linux")]
mod names;
mod onnx;
mod regions;
mod sketches;
mod spaces;

impl TestFolder {
    fn search(&self, picture: &Path, more: &[&str]) -> (Option<i32>, Value) {
        let output = self.run(&[&["search", picture.to_str().unwrap(), "--json"], more].concat());
        (output.status.code(), json_lines(&output).pop().unwrap_or_default())
    }

    /// The output of `info --json`.
    fn info(&self) -> Value {
        self.json(&["info", "--json", "--videos"])
    }
}

fn events<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|e| e["event"] == kind).collect()
}

/// Writes a script that replaces ffmpeg.
#[cfg(unix)]
fn fake_ffmpeg(folder: &TestFolder, script: &str) -> PathBuf {
    let path = folder.path("ffmpeg-stand-in");
    write_script(&path, &format!("[ \"$2\" = -version ] && exit 0\n{script}"));
    path
}

#[test]
fn a_frame_finds_its_video_and_its_moment() {
    let folder = TestFolder::with_clips();
    let all = folder.index(&[]);
    assert_eq!(all.last().unwrap()["indexed"], 3);
    assert!(events(&all, "indexed").iter().all(|e| e["rows"].as_u64() > Some(0) && e["error"].is_null()));

    let picture = folder.frame("zoom.mp4", "7", "query.jpg");
    let (code, reply) = folder.search(&picture, &[]);
    assert_eq!(code, Some(0));
    let best = &reply["results"][0];
    assert_eq!(best["rank"], 1);
    assert!(best["path"].as_str().unwrap().ends_with("videos/zoom.mp4"), "{reply}");
    assert!((best["at"].as_f64().unwrap() - 7.0).abs() <= 2.0, "{best}");
    assert!(best["from"].as_f64() <= best["at"].as_f64() && best["at"].as_f64() <= best["to"].as_f64());
    assert!((best["duration"].as_f64().unwrap() - 12.0).abs() < 0.2);
    assert!(best["score"].as_f64().unwrap() > 0.9 && best["confidence"].as_f64().unwrap() > 0.95, "{best}");
    assert_eq!(reply["query"], picture.to_str().unwrap());

    // Results of each space are sorted, one for each video, and at most as many as requested.
    let results = reply["results"].as_array().unwrap();
    assert!(results.len() <= 3);
    for space in ["scene", "kind"] {
        let scores: Vec<f64> =
            results.iter().filter(|r| r["match"] == space).map(|r| r["score"].as_f64().unwrap()).collect();
        assert!(scores.is_sorted_by(|a, b| a >= b), "{reply}");
    }
    assert_eq!(folder.search(&picture, &["--top", "1"]).1["results"].as_array().unwrap().len(), 1);
}

#[cfg(unix)]
#[test]
fn a_second_run_decodes_nothing_and_a_changed_file_is_replaced() {
    let folder = TestFolder::with_clips();
    folder.index(&[]);
    // With this ffmpeg, which only supports `-version`, decoding would fail.
    let stub = fake_ffmpeg(&folder, "exit 1");
    let output = folder.command(&["index", "@videos", "--json"]).env("REELSEEK_FFMPEG", &stub).output().unwrap();
    let again = json_lines(&output);
    assert_eq!(events(&again, "unchanged").len(), 3, "{}", text(&output.stderr));
    let rows = again.last().unwrap()["rows"].clone();

    folder.clip(CELLS, 6, "bars.avi");
    let changed = folder.index(&[]);
    let summary = changed.last().unwrap();
    assert_eq!((&summary["indexed"], &summary["unchanged"]), (&1.into(), &2.into()));
    assert!(summary["rows"].as_u64() < rows.as_u64(), "the old rows are gone: {summary}");
}

#[test]
fn missing_files_are_reported_and_removed_only_with_prune() {
    let folder = TestFolder::with_clips();
    folder.index(&[]);
    std::fs::remove_file(folder.videos().join("bars.avi")).unwrap();
    let found = folder.index(&[]);
    assert!(events(&found, "skipped")[0]["error"].as_str().unwrap().contains("--prune"));
    assert_eq!(folder.index(&["--prune"]).last().unwrap()["removed"], 1);
    assert_eq!(folder.index(&["--prune"]).last().unwrap()["removed"], 0);
}

#[test]
fn a_sidecar_gives_title_and_labels_and_the_filter_uses_them() {
    let folder = TestFolder::with_clips();
    folder.sidecar("cells.mkv", r#"{"title":"Life of cells","labels":["biology"],"camera":"scope"}"#);
    folder.index(&[]);
    let picture = folder.frame("zoom.mp4", "5", "query.png");
    let (code, reply) = folder.search(&picture, &["--filter", "label:biology"]);
    let only = &reply["results"][0];
    assert_eq!((code, &only["title"], &only["labels"][0]), (Some(0), &"Life of cells".into(), &"biology".into()));
    assert_eq!(reply["results"].as_array().unwrap().len(), 1);
    assert_eq!(folder.search(&picture, &["--filter", "duration:[100 TO 200]"]).0, Some(1));
    assert_eq!(folder.search(&picture, &["--filter", "duration:[10 TO 20] path:zoom"]).0, Some(0));

    // The video gets new metadata and keeps its rows.
    folder.sidecar("cells.mkv", r#"{"labels":["chemistry"]}"#);
    assert_eq!(folder.index(&[]).last().unwrap()["indexed"], 1);
    assert_eq!(folder.search(&picture, &["--filter", "label:biology"]).0, Some(1));
    assert_eq!(folder.search(&picture, &["--filter", "label:chemistry"]).0, Some(0));

    folder.sidecar("cells.mkv", "not json");
    let warned = folder.index(&[]);
    assert!(events(&warned, "indexed")[0]["warning"].as_str().unwrap().contains("cells.mkv.json"));
}

#[test]
fn a_black_picture_finds_nothing_and_a_black_video_matches_nothing() {
    let folder = TestFolder::with_clips();
    folder.clip("color=black:size=320x180:rate=10", 5, "black.mp4");
    assert_eq!(folder.index(&[]).last().unwrap()["indexed"], 4);
    let black = folder.frame("black.mp4", "1", "black.png");
    let (code, reply) = folder.search(&black, &[]);
    assert_eq!((code, reply["results"].as_array().unwrap().len()), (Some(1), 0));
    let (_, reply) = folder.search(&folder.frame("bars.avi", "3", "bars.png"), &[]);
    let paths: Vec<&str> = reply["results"].as_array().unwrap().iter().map(|r| r["path"].as_str().unwrap()).collect();
    assert!(paths.iter().all(|p| !p.ends_with("black.mp4")), "{paths:?}");
}

#[test]
fn errors_name_the_file_and_exit_with_status_2() {
    let folder = TestFolder::with_clips();
    let picture = folder.frame("zoom.mp4", "2", "query.jpg");
    let output = folder.run(&["search", picture.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2), "no index yet");
    assert!(text(&output.stderr).contains("index"), "{}", text(&output.stderr));

    folder.index(&[]);
    let broken = folder.path("broken.jpg");
    std::fs::write(&broken, "no picture").unwrap();
    let output = folder.run(&["search", broken.to_str().unwrap(), picture.to_str().unwrap(), "--json"]);
    let replies = json_lines(&output);
    assert_eq!(output.status.code(), Some(2));
    assert!(replies[0]["error"].as_str().unwrap().contains("broken.jpg"), "{}", replies[0]);
    assert!(replies[1]["results"].as_array().is_some_and(|r| !r.is_empty()), "the good picture is answered");

    let output = folder.run(&["search", picture.to_str().unwrap(), "--filter", "nofield:x"]);
    assert_eq!(output.status.code(), Some(2));
    let output = folder.command(&["index", "@videos"]).env("REELSEEK_FFMPEG", "/none").output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("REELSEEK_FFMPEG"), "{}", text(&output.stderr));
}

#[test]
fn search_prints_paths_or_a_table_and_reads_standard_input() {
    let folder = TestFolder::with_clips();
    folder.index(&[]);
    let picture = folder.frame("cells.mkv", "6", "query.jpg");
    let mut command = folder.command(&["search", "-", "--paths", "--top", "1"]);
    let output = command.stdin(std::fs::File::open(&picture).unwrap()).output().unwrap();
    assert_eq!(
        text(&output.stdout).trim(),
        folder.videos().join("cells.mkv").canonicalize().unwrap().to_str().unwrap()
    );
    let table = text(&folder.run(&["search", picture.to_str().unwrap()]).stdout);
    assert!(table.starts_with("rank") && table.lines().nth(1).unwrap().ends_with("cells.mkv"), "{table}");
}

#[test]
fn remove_compact_verify_and_info_work_on_an_index() {
    let folder = TestFolder::with_clips();
    folder.index(&[]);
    assert_eq!(folder.run(&["remove", "@videos/zoom.mp4"]).status.code(), Some(0));
    assert!(folder.path("videos/zoom.mp4").exists(), "the file itself stays");
    assert_eq!(folder.run(&["remove", "@videos/zoom.mp4"]).status.code(), Some(1));
    assert_eq!(folder.run(&["compact"]).status.code(), Some(0));
    assert_eq!(folder.run(&["verify"]).status.code(), Some(0));
    let info = folder.info();
    assert_eq!(info["videos"], 2);

    let segments = std::fs::read_dir(folder.path("index/segments")).unwrap();
    for file in segments {
        let path = file.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        std::fs::write(&path, bytes).unwrap();
    }
    assert_eq!(folder.run(&["verify"]).status.code(), Some(2));
}

#[cfg(unix)]
#[test]
fn hostile_sidecars_cause_a_warning_only() {
    let folder = TestFolder::with_clips();
    let beside = |clip: &str| folder.videos().join(format!("{clip}.json"));
    // JSON that is nested too deeply, a pipe without a writer, and a device without an end.
    folder.sidecar("zoom.mp4", format!("{{\"a\":{}{}}}", "[".repeat(125), "]".repeat(125)));
    assert!(Command::new("mkfifo").arg(beside("cells.mkv")).status().unwrap().success());
    std::os::unix::fs::symlink("/dev/zero", beside("bars.avi")).unwrap();
    let found = folder.index(&[]);
    assert_eq!(events(&found, "indexed").iter().filter(|e| e["warning"].is_string()).count(), 3, "{found:?}");
    // The index can still be read, written and searched.
    folder.sidecar("zoom.mp4", "{\"title\":\"fine\"}");
    assert_eq!(folder.index(&[]).last().unwrap()["indexed"], 1);
    assert_eq!(folder.run(&["info", "--videos"]).status.code(), Some(0));
}

#[test]
fn long_titles_and_many_fields_are_left_out_with_a_warning() {
    let folder = TestFolder::with_clips();
    // 1,100 different names in eleven files.
    for file in 0..11 {
        let copy = format!("copy{file}.avi");
        std::fs::copy(folder.videos().join("bars.avi"), folder.videos().join(&copy)).unwrap();
        let fields: serde_json::Map<_, _> = (0..100).map(|i| (format!("name{}", file * 100 + i), i.into())).collect();
        folder.sidecar(&copy, serde_json::Value::Object(fields));
    }
    folder.sidecar("zoom.mp4", json!({ "title": "t".repeat(900_000), "labels": vec!["l".repeat(300); 200] }));
    let found = folder.index(&[]);
    let warnings: Vec<String> = events(&found, "indexed")
        .iter()
        .filter_map(|event| Some(format!("{}: {}", event["path"], event["warning"].as_str()?)))
        .collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    let [zoom] = &warnings.iter().filter(|w| w.contains("zoom.mp4.json is used in part")).collect::<Vec<_>>()[..]
    else {
        panic!("{warnings:?}")
    };
    for part in ["title cut to 1000 bytes", "labels left out: 100", "labels cut to 200 bytes: 100"] {
        assert!(zoom.contains(part), "{zoom}");
    }
    let expected = "fields left out: 100 (an index has at most 1000 names of fields)";
    assert!(warnings.iter().any(|warning| warning.contains(expected)), "{warnings:?}");
    let info = folder.json(&["info", "--videos", "--json"]);
    let zoom = info["list"].as_array().unwrap().iter().find(|v| v["path"].as_str().unwrap().contains("zoom")).unwrap();
    assert_eq!(zoom["title"].as_str().unwrap().len(), 1000);
    assert_eq!(zoom["labels"].as_array().unwrap().len(), 100);
}

#[test]
fn a_filter_beyond_a_limit_is_an_error_with_the_limit() {
    let folder = TestFolder::with_clips();
    folder.index(&[]);
    let picture = folder.frame("zoom.mp4", "5", "query.png");
    for (filter, expected) in [
        ("NOT ".repeat(1900) + "a", "expected at most 64 opening parentheses and NOTs, found 1900"),
        ("w -(".repeat(60) + "a" + &")".repeat(60), "expected at most 32 nested levels, found 59"),
        ((0..200).map(|i| format!("w{i} ")).collect(), "expected at most 128 words, found 200"),
        ("a".repeat(9000), "expected at most 8192 bytes, found 9000"),
    ] {
        let output = folder.run(&["search", "--index", "@index", "--filter", &filter, &picture.to_string_lossy()]);
        let error = text(&output.stderr);
        assert!(output.status.code() == Some(2) && error.contains(expected), "{:?}: {error}", output.status);
    }
    assert_eq!(folder.search(&picture, &["--filter", &("NOT ".repeat(60) + "path:zoom")]).0, Some(0));
}

#[test]
fn quality_counts_undecodable_frames_and_fails_its_floor_with_them() {
    let folder = TestFolder::with_clips();
    folder.index(&[]);
    let quality = |more: &[&str]| {
        let fixed = ["quality", "--index", "@index", "--frames", "2", "--floor", "0.01"];
        folder.run(&[&fixed[..], more].concat())
    };
    assert_eq!(quality(&[]).status.code(), Some(0));
    std::fs::remove_file(folder.videos().join("zoom.mp4")).unwrap();
    let output = quality(&["--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert_eq!(
        (&json_lines(&output)[0]["asked"], &json_lines(&output)[0]["undecodable_frames"]),
        (&2.into(), &2.into())
    );
    assert!(text(&quality(&[]).stdout).contains("2 frames could not be decoded"));
}

#[cfg(target_os = "linux")]
fn wait_for_line(path: &Path) -> String {
    loop {
        match std::fs::read_to_string(path) {
            Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

#[test]
fn prune_keeps_the_videos_of_an_unreadable_folder() {
    let folder = TestFolder::with_clips();
    folder.index(&[]);
    // The folder is missing, like an unplugged drive. This is an error, and its videos stay in the index.
    let away = folder.path("away");
    std::fs::rename(folder.videos(), &away).unwrap();
    let output = folder.run(&["index", "@videos", "--prune", "--json"]);
    assert_eq!(json_lines(&output).last().unwrap()["removed"], 0);
    std::fs::rename(&away, folder.videos()).unwrap();
    assert_eq!(folder.index(&["--prune"]).last().unwrap()["unchanged"], 3);
}

#[test]
fn keyframe_rows_have_the_true_length_and_are_replaced_by_a_full_run() {
    let folder = TestFolder::new();
    folder.clip(ZOOM, 8, "zoom.mp4");
    folder.index(&["--keyframes"]);
    let length = || folder.info()["list"][0]["duration"].as_f64().unwrap();
    assert!((length() - 8.0).abs() < 0.2, "{}", length());
    assert_eq!(folder.index(&["--keyframes"]).last().unwrap()["unchanged"], 1);
    assert_eq!(folder.index(&[]).last().unwrap()["indexed"], 1, "more is asked for now");
    assert_eq!(folder.index(&["--keyframes"]).last().unwrap()["unchanged"], 1, "better than asked for");
    assert!((length() - 8.0).abs() < 0.2);
}

#[test]
fn a_video_whose_only_keyframe_is_hidden_is_indexed() {
    let folder = TestFolder::new();
    let whole = folder.path("whole.mp4");
    let source = "testsrc2=size=160x90:rate=10:duration=6";
    ffmpeg(&["-f", "lavfi", "-i", source, "-g", "1000", "-pix_fmt", "yuv420p"], &whole);
    // A cut without encoding starts at 2 s by an edit list: the keyframe before that time is decoded, but not
    // shown.
    let cut = folder.videos().join("cut.mp4");
    ffmpeg(&["-ss", "2", "-i", whole.to_str().unwrap(), "-c", "copy"], &cut);
    let found = folder.index(&["--keyframes"]);
    assert_eq!(found.last().unwrap()["indexed"], 1, "{found:?}");
    assert_eq!(folder.index(&[]).last().unwrap()["failed"], 0);
}

#[test]
fn the_calibration_follows_removed_videos() {
    let folder = TestFolder::with_clips();
    folder.index(&[]);
    let probes = || folder.info()["calibration"]["probes"].as_u64().unwrap();
    assert_eq!(probes(), 3);
    folder.run(&["remove", "@videos/bars.avi"]);
    assert_eq!(probes(), 2);
}

#[cfg(unix)]
#[test]
fn a_closed_standard_output_does_not_panic() {
    let folder = TestFolder::with_clips();
    folder.index(&[]);
    for arguments in [&["info", "--videos"][..], &["verify"], &["compact"]] {
        let mut command = folder.command(arguments);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!text(&output.stderr).contains("panicked"), "{}", text(&output.stderr));
    }
}

/// Kills the indexer at many points. Committed videos stay, and the next run completes the index with each
/// video once.
#[test]
fn a_killed_run_resumes_without_losing_or_repeating_videos() {
    let folder = TestFolder::new();
    for i in 0..6 {
        folder.clip(&format!("life=size=160x90:rate=8:seed={i}"), 6, &format!("{i}.mp4"));
    }
    for delay_ms in (20..400).step_by(35) {
        let mut child =
            folder.command(&["index", "@videos"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay_ms));
        // The process may have finished already.
        let _ = child.kill();
        child.wait().unwrap();
        if folder.path("index").join("text").exists() {
            let verify = folder.run(&["verify"]);
            assert_ne!(verify.status.code(), None);
        }
    }
    let summary = folder.index(&[]).pop().unwrap();
    assert_eq!(summary["indexed"].as_u64().unwrap() + summary["unchanged"].as_u64().unwrap(), 6, "{summary}");
    let info = folder.info();
    let mut paths: Vec<&str> = info["list"].as_array().unwrap().iter().map(|v| v["path"].as_str().unwrap()).collect();
    paths.sort_unstable();
    paths.dedup();
    assert_eq!((paths.len(), &info["videos"]), (6, &6.into()));
    assert_eq!(folder.run(&["verify"]).status.code(), Some(0));
}

#[cfg(target_os = "linux")]
#[test]
fn an_interrupt_leaves_no_child_process() {
    let folder = TestFolder::with_clips();
    // The decoder writes nothing and never ends.
    let pid = folder.path("pid");
    let stub = fake_ffmpeg(&folder, &format!("echo $$ > {}\nexec sleep 600", pid.display()));
    let mut child = folder
        .command(&["index", "@videos", "--jobs", "1"])
        .env("REELSEEK_FFMPEG", &stub)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let decoder = wait_for_line(&pid);
    send_signal(&child, Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(!Path::new("/proc").join(&decoder).exists(), "the decoder {decoder} lives on");
}

/// 66 odd and broken media. Each has the outcome that the manifest states, and none stops the run.
#[test]
fn odd_and_broken_media_have_the_expected_outcome() {
    let archive = test_data("videos_bad.tar.gz");
    if !archive.exists() {
        return crate::support::skip(format_args!("{} is missing", archive.display()));
    }
    let folder = TestFolder::new();
    let unpacked = Command::new("tar").arg("xzf").arg(&archive).arg("-C").arg(folder.videos()).status().unwrap();
    assert!(unpacked.success());
    let root = folder.videos().join("videos_bad");
    // A playlist that names another file is not a video, although its name ends in .mp4.
    std::fs::write(root.join("script.mp4"), "ffconcat version 1.0\nfile good_base.mp4\n").unwrap();
    let found = folder.index(&[]);
    let event = |name: &str| {
        let path = root.join(name);
        found.iter().find(|e| e["path"].as_str().is_some_and(|p| Path::new(p) == path)).map(|e| e["event"].clone())
    };
    for line in std::fs::read_to_string(root.join("manifest.jsonl")).unwrap().lines() {
        let entry: Value = serde_json::from_str(line).unwrap();
        let name = match entry["path"].as_str().unwrap() {
            "dir_loop" => "dir_loop/sub/one_frame.mp4",
            name => name,
        };
        match entry["expected"].as_str().unwrap() {
            "index" => assert_eq!(event(name), Some("indexed".into()), "{name}"),
            "skip_with_error" => assert_eq!(event(name), Some("failed".into()), "{name}"),
            _ => assert_ne!(event(name), Some("skipped".into()), "{name}"),
        }
    }
    assert_eq!(event("script.mp4"), Some("failed".into()));
    let under_loop =
        found.iter().filter(|e| e["event"] == "indexed" && e["path"].as_str().is_some_and(|p| p.contains("dir_loop")));
    assert_eq!(under_loop.count(), 1);
    assert!(!root.join("x").exists(), "nothing in a file's name is run");

    let named = folder.run(&["index", root.join("no_extension").to_str().unwrap(), "--json"]);
    assert_eq!(json_lines(&named)[0]["event"], "indexed", "a file named by the person is taken whatever it is called");
}

#[test]
fn a_named_path_that_does_not_exist_is_an_error_after_the_rest_is_done() {
    let folder = TestFolder::new();
    folder.clip(ZOOM, 4, "zoom.mp4");
    let output = folder.run(&["index", "@videos", "@missing", "--json"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert_eq!(json_lines(&output).last().unwrap()["indexed"], 1);
    assert!(text(&output.stderr).contains("1 path not found"), "{}", text(&output.stderr));
}

#[test]
fn a_folder_without_videos_is_reported() {
    let folder = TestFolder::new();
    let output = folder.run(&["index", "@videos"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("no video files were found in"), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("the index holds no videos\n"), "{}", text(&output.stderr));

    folder.write("videos/broken.mp4", "no video");
    let output = folder.run(&["index", "@videos"]);
    assert!(text(&output.stderr).contains("no file could be decoded"), "{}", text(&output.stderr));

    folder.clip(ZOOM, 4, "zoom.mp4");
    folder.index(&[]);
    std::fs::create_dir(folder.path("empty")).unwrap();
    let output = folder.run(&["index", "@empty"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("no video files were found in"), "{}", text(&output.stderr));
}

#[test]
fn a_search_without_results_says_why() {
    let folder = TestFolder::new();
    folder.clip(ZOOM, 4, "zoom.mp4");
    let picture = folder.frame("zoom.mp4", "2", "query.png");
    let search = |more: &[&str]| {
        let output = folder.run(&[&["search", picture.to_str().unwrap()], more].concat());
        (output.status.code(), text(&output.stderr))
    };
    let (code, message) = search(&[]);
    assert!(code == Some(2) && message.contains("make one with `reelseek index FOLDER`"), "{message}");
    folder.index(&[]);
    let (code, message) = search(&["--filter", "path:zzz"]);
    assert!(code == Some(1) && message.ends_with("no video matches the filter\n"), "{message}");
    let (code, reply) = folder.search(&picture, &["--filter", "path:zzz"]);
    let reason = json!({"code": "no_match_for_filter", "message": "no video matches the filter"});
    assert_eq!((code, &reply["reason"]), (Some(1), &reason));
    assert_eq!(folder.search(&picture, &[]).1.get("reason"), None);
    let (code, message) = search(&["--filter", "duration>100"]);
    assert!(code == Some(1) && message.contains("duration:[10 TO 60]"), "{message}");
    let (code, message) = search(&["--top", "0"]);
    assert!(code == Some(2) && message.contains("expected a whole number above 0"), "{message}");
    assert_eq!(folder.run(&["remove", "@videos/zoom.mp4"]).status.code(), Some(0));
    let (code, message) = search(&[]);
    assert!(code == Some(1) && message.ends_with("the index holds no videos\n"), "{message}");

    let output = folder.run(&["search", "https://example.org/a.jpg"]);
    assert!(output.status.code() == Some(2) && text(&output.stderr).contains("URLs are not downloaded"));
}

#[test]
fn commands_without_an_index_say_how_to_make_one() {
    let folder = TestFolder::new();
    for arguments in [&["info"][..], &["verify"], &["compact"], &["remove", "a.mp4"]] {
        let output = folder.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let message = text(&output.stderr);
        assert!(
            message.ends_with("make one with `reelseek index FOLDER`, or name another with --index\n"),
            "{message}"
        );
    }
}

#[test]
fn completions_and_man_pages_cover_the_commands() {
    let folder = TestFolder::new();
    let script = text(&folder.run(&["completions", "bash"]).stdout);
    assert!(script.contains("reelseek__subcmd__index") || script.contains("reelseek__index"), "{script}");
    assert_eq!(folder.run(&["man", "@man"]).status.code(), Some(0));
    let page = folder.read_text("man/reelseek-search.1");
    assert!(page.contains("min\\-confidence"), "{page}");
}

#[test]
fn a_server_refuses_a_folder_that_is_not_there() {
    let folder = TestFolder::new();
    folder.write("picture.jpg", "");
    for name in ["missing", "picture.jpg"] {
        let output = folder.run(&["serve", "--listen", "127.0.0.1:0", &format!("@{name}")]);
        assert_eq!(output.status.code(), Some(2), "{name}");
        assert!(text(&output.stderr).contains(name), "{}", text(&output.stderr));
    }
}
