//! The user's own ONNX encoder: the record in the index, and errors if the encoder is missing.

use super::*;

/// Writes a network and its description. `tests/reference/tiny_onnx.py` made the network, which maps 12 x 8
/// pixels to 5 numbers.
fn encoder(folder: &TestFolder) -> String {
    folder.write("tiny.onnx", include_bytes!("../../reference/tiny.onnx"));
    folder.write("tiny.json", r#"{"shorter": 12, "rate_hz": 4.0}"#);
    format!("onnx:{}", folder.path("tiny.onnx").display())
}

#[test]
fn an_index_remembers_an_onnx_encoder() {
    let folder = TestFolder::with_clips();
    let encoder = encoder(&folder);
    let indexed = folder.index(&["--encoder", &encoder]);
    assert_eq!(indexed.last().unwrap()["indexed"], 3);
    // The index records the encoder: neither searching nor indexing needs the option again.
    let picture = folder.frame("bars.avi", "5", "query.png");
    let (code, reply) = folder.search(&picture, &[]);
    assert_eq!(code, Some(0), "{reply}");
    assert_eq!(reply["results"][0]["title"], "bars", "{reply}");
    assert_eq!(folder.index(&[]).last().unwrap()["unchanged"], 3);
    let info = folder.info();
    let id = info["attributes"]["encoder"].as_str().unwrap();
    assert!(id.starts_with("onnx:tiny/1+"), "{id}");

    // After the file is moved, the error names it and an option to name the new one.
    std::fs::create_dir(folder.path("moved")).unwrap();
    for file in ["tiny.onnx", "tiny.json"] {
        std::fs::rename(folder.path(file), folder.path("moved").join(file)).unwrap();
    }
    let output = folder.run(&["search", picture.to_str().unwrap()]);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(message.contains("tiny.onnx: ") && message.contains("--weights FILE"), "{message}");
    assert_eq!(folder.search(&picture, &["--weights", "@moved/tiny.onnx"]).0, Some(0));

    // With another description, the network is another encoder.
    folder.write("moved/tiny.json", "{}");
    let output = folder.run(&["search", picture.to_str().unwrap(), "--weights", "@moved/tiny.onnx"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains(&format!("the index needs the encoder {id}, found onnx:tiny/1+")));
}

#[test]
fn a_missing_onnx_encoder_is_named() {
    let folder = TestFolder::with_clips();
    for (file, message) in [("tiny.onnx", "tiny.json: "), ("none.onnx", "none.onnx: ")] {
        let encoder = encoder(&folder);
        std::fs::remove_file(folder.path("tiny.json")).unwrap();
        let encoder = encoder.replace("tiny.onnx", file);
        let output = folder.run(&["index", "@videos", "--encoder", &encoder]);
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains(message), "{}", text(&output.stderr));
        assert!(!folder.path("index").exists());
    }
}

/// The index folder holds the fitted checkpoint at every point of the creation of the index.
#[test]
fn an_index_needs_its_checkpoint() {
    let folder = TestFolder::with_clips();
    let encoder = encoder(&folder);
    folder.index(&["--encoder", &encoder]);
    let info = folder.info();
    let fingerprint = info["attributes"]["checkpoint"].as_str().unwrap().to_owned();
    let (own, index) = (folder.path("index/checkpoint.safetensors"), folder.path("index"));

    // If the creation stops before the checkpoint is renamed, the next run renames it.
    std::fs::rename(&own, index.join(format!("text.new.checkpoint.{fingerprint}"))).unwrap();
    assert_eq!(folder.index(&[]).last().unwrap()["unchanged"], 3);
    assert!(own.exists());

    // If the creation stops before the index exists, the next run creates the index in the same folder.
    std::fs::rename(&own, folder.path("kept")).unwrap();
    std::fs::remove_dir_all(&index).unwrap();
    std::fs::create_dir(&index).unwrap();
    std::fs::copy(folder.path("kept"), index.join(format!("text.new.checkpoint.{fingerprint}"))).unwrap();
    assert_eq!(folder.index(&["--encoder", &encoder]).last().unwrap()["indexed"], 3);

    // If the checkpoint is missing, this is an error, and no other checkpoint is fitted.
    std::fs::remove_file(&own).unwrap();
    let output = folder.run(&["index", "@videos"]);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(message.contains("checkpoint.safetensors is missing") && message.contains("--checkpoint"), "{message}");
    assert!(!message.contains("fitting"), "{message}");
    let output = folder.run(&["search", "@flat.png"]);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(message.contains("checkpoint.safetensors is missing") && message.contains("--checkpoint"), "{message}");
    assert_eq!(folder.index(&["--checkpoint", "@kept"]).last().unwrap()["unchanged"], 3);
}

#[test]
fn a_renamed_onnx_file_is_the_same_encoder() {
    let folder = TestFolder::with_clips();
    let encoder = encoder(&folder);
    folder.index(&["--encoder", &encoder]);
    for ending in ["onnx", "json"] {
        std::fs::rename(folder.path(&format!("tiny.{ending}")), folder.path(&format!("other.{ending}"))).unwrap();
    }
    let picture = folder.frame("bars.avi", "5", "query.png");
    assert_eq!(folder.search(&picture, &["--weights", "@other.onnx"]).0, Some(0));
    assert_eq!(folder.index(&["--weights", "@other.onnx"]).last().unwrap()["unchanged"], 3);
    let named = format!("onnx:{}", folder.path("other.onnx").display());
    assert_eq!(folder.index(&["--encoder", &named]).last().unwrap()["unchanged"], 3);
}

#[test]
fn another_encoder_is_refused_before_anything_is_fitted() {
    let folder = TestFolder::with_clips();
    folder.index(&[]);
    let encoder = encoder(&folder);
    let output = folder.run(&["index", "@videos", "--encoder", &encoder]);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        message.contains("the index needs the encoder layout/") && message.contains("into another folder"),
        "{message}"
    );
    assert!(!message.contains("fitting"), "{message}");
}

/// Files that `--exclude` matches are neither indexed nor used for the fit. The record names the number of
/// videos, and an index that outgrows them suggests a new one.
#[test]
fn the_fit_uses_the_indexed_videos_and_records_their_number() {
    let folder = TestFolder::with_clips();
    let (encoder, videos) = (encoder(&folder), folder.videos());
    let output = folder.run(&["index", "@videos", "--encoder", &encoder, "--exclude", "zoom*", "--exclude", "bars*"]);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{message}");
    assert!(
        message.contains("1 videos with ") && message.contains("index at least 8 videos with 128 frames at once"),
        "{message}"
    );
    let checkpoint = folder.read("index/checkpoint.safetensors");
    let length = u64::from_le_bytes(checkpoint[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8_lossy(&checkpoint[8..8 + length]).replace('\\', "");
    assert!(header.contains(r#""of":1"#) && header.contains(r#""videos":1"#), "{header}");

    // The index has ten times as many videos, so a new index is suggested.
    assert!(!message.contains("fitted to"), "{message}");
    for i in 0..7 {
        std::fs::copy(videos.join("cells.mkv"), videos.join(format!("copy{i}.mkv"))).unwrap();
    }
    let output = folder.run(&["index", "@videos"]);
    let message = text(&output.stderr);
    assert!(message.contains("fitted to 1 video,") && message.contains("the index now holds 10"), "{message}");
}

/// A graph that makes the network library panic is reported as an error.
#[test]
fn an_inconsistent_network_is_an_error_without_a_panic() {
    let folder = TestFolder::with_clips();
    let encoder = encoder(&folder);
    let mut bytes = folder.read("tiny.onnx");
    // The graph's output, which the file describes last, is the output of no node.
    let at = bytes.windows(8).rposition(|window| window == b"features").unwrap();
    bytes[at..at + 8].copy_from_slice(b"nowheres");
    folder.write("tiny.onnx", bytes);
    let output = folder.run(&["index", "@videos", "--encoder", &encoder]);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(message.contains("tiny.onnx: ") && !message.contains("panicked"), "{message}");
}

/// Ctrl-C during a fit creates no index and is not an error.
#[cfg(target_os = "linux")]
#[test]
fn an_interrupt_ends_a_fit() {
    let folder = TestFolder::with_clips();
    let encoder = encoder(&folder);
    let pid = folder.path("pid");
    let stub = fake_ffmpeg(&folder, &format!("echo $$ > {}\nexec sleep 600", pid.display()));
    let mut command = folder.command(&["index", "@videos", "--encoder", &encoder]);
    command.env("REELSEEK_FFMPEG", &stub).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    wait_for_line(&pid);
    send_signal(&child, Signal::INT);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    assert!(!folder.path("index").exists());
}
