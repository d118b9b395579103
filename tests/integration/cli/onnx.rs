//! The user's own ONNX encoder: what an index records, and the errors when it is missing.

use super::*;

/// A network that `tests/reference/tiny_onnx.py` made, 12 x 8 pixels to 5 numbers, and its description.
fn encoder(place: &TestFolder) -> String {
    place.write("tiny.onnx", include_bytes!("../../reference/tiny.onnx"));
    place.write("tiny.json", r#"{"shorter": 12, "rate_hz": 4.0}"#);
    format!("onnx:{}", place.path("tiny.onnx").display())
}

#[test]
fn an_index_remembers_an_onnx_encoder() {
    let place = TestFolder::with_clips();
    let encoder = encoder(&place);
    let indexed = place.index(&["--encoder", &encoder]);
    assert_eq!(indexed.last().unwrap()["indexed"], 3);
    // Nothing has to be said again, neither to search nor to go on.
    let picture = place.frame("bars.avi", "5", "query.png");
    let (code, reply) = place.search(&picture, &[]);
    assert_eq!(code, Some(0), "{reply}");
    assert_eq!(reply["results"][0]["title"], "bars", "{reply}");
    assert_eq!(place.index(&[]).last().unwrap()["unchanged"], 3);
    let info = place.info();
    let id = info["attributes"]["encoder"].as_str().unwrap();
    assert!(id.starts_with("onnx:tiny/1+"), "{id}");

    // Moved elsewhere: the error names the file and the way out.
    std::fs::create_dir(place.path("moved")).unwrap();
    for file in ["tiny.onnx", "tiny.json"] {
        std::fs::rename(place.path(file), place.path("moved").join(file)).unwrap();
    }
    let output = place.run(&["search", picture.to_str().unwrap()]);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(told.contains("tiny.onnx: ") && told.contains("--weights FILE"), "{told}");
    assert_eq!(place.search(&picture, &["--weights", "@moved/tiny.onnx"]).0, Some(0));

    // Another description makes other features.
    std::fs::write(place.path("moved/tiny.json"), "{}").unwrap();
    let output = place.run(&["search", picture.to_str().unwrap(), "--weights", "@moved/tiny.onnx"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains(&format!("the index needs the encoder {id}, found onnx:tiny/1+")));
}

#[test]
fn a_missing_onnx_encoder_is_named() {
    let place = TestFolder::with_clips();
    for (file, told) in [("tiny.onnx", "tiny.json: "), ("none.onnx", "none.onnx: ")] {
        let encoder = encoder(&place);
        std::fs::remove_file(place.path("tiny.json")).unwrap();
        let encoder = encoder.replace("tiny.onnx", file);
        let output = place.run(&["index", "@videos", "--encoder", &encoder]);
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains(told), "{}", text(&output.stderr));
        assert!(!place.path("index").exists());
    }
}

/// The folder holds the checkpoint that was fitted for the index: before there is an index, and whatever is
/// renamed.
#[test]
fn an_index_needs_its_checkpoint() {
    let place = TestFolder::with_clips();
    let encoder = encoder(&place);
    place.index(&["--encoder", &encoder]);
    let info = place.info();
    let fingerprint = info["attributes"]["checkpoint"].as_str().unwrap().to_owned();
    let (own, index) = (place.path("index/checkpoint.safetensors"), place.path("index"));

    // Cut short between the index and the name of its checkpoint: the next run goes on from there.
    std::fs::rename(&own, index.join(format!("text.new.checkpoint.{fingerprint}"))).unwrap();
    assert_eq!(place.index(&[]).last().unwrap()["unchanged"], 3);
    assert!(own.exists());

    // Cut short before there was an index: the folder is taken.
    std::fs::rename(&own, place.path("kept")).unwrap();
    std::fs::remove_dir_all(&index).unwrap();
    std::fs::create_dir(&index).unwrap();
    std::fs::copy(place.path("kept"), index.join(format!("text.new.checkpoint.{fingerprint}"))).unwrap();
    assert_eq!(place.index(&["--encoder", &encoder]).last().unwrap()["indexed"], 3);

    // Gone: that is said, and nothing else is fitted in its place.
    std::fs::remove_file(&own).unwrap();
    let output = place.run(&["index", "@videos"]);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(told.contains("checkpoint.safetensors is missing") && told.contains("--checkpoint"), "{told}");
    assert!(!told.contains("fitting"), "{told}");
    let output = place.run(&["search", "@flat.png"]);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(told.contains("checkpoint.safetensors is missing") && told.contains("--checkpoint"), "{told}");
    assert_eq!(place.index(&["--checkpoint", "@kept"]).last().unwrap()["unchanged"], 3);
}

#[test]
fn a_renamed_onnx_file_is_the_same_encoder() {
    let place = TestFolder::with_clips();
    let encoder = encoder(&place);
    place.index(&["--encoder", &encoder]);
    for ending in ["onnx", "json"] {
        std::fs::rename(place.path(&format!("tiny.{ending}")), place.path(&format!("other.{ending}"))).unwrap();
    }
    let picture = place.frame("bars.avi", "5", "query.png");
    assert_eq!(place.search(&picture, &["--weights", "@other.onnx"]).0, Some(0));
    assert_eq!(place.index(&["--weights", "@other.onnx"]).last().unwrap()["unchanged"], 3);
    let named = format!("onnx:{}", place.path("other.onnx").display());
    assert_eq!(place.index(&["--encoder", &named]).last().unwrap()["unchanged"], 3);
}

#[test]
fn another_encoder_is_refused_before_anything_is_fitted() {
    let place = TestFolder::with_clips();
    place.index(&[]);
    let encoder = encoder(&place);
    let output = place.run(&["index", "@videos", "--encoder", &encoder]);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(told.contains("the index needs the encoder layout/") && told.contains("into another folder"), "{told}");
    assert!(!told.contains("fitting"), "{told}");
}

/// What `--exclude` matches is not indexed, and nothing is fitted to it; of few videos nothing is fitted at
/// all.
#[test]
fn the_fit_uses_the_indexed_videos_and_records_their_number() {
    let place = TestFolder::with_clips();
    let (encoder, videos) = (encoder(&place), place.videos());
    let output = place.run(&["index", "@videos", "--encoder", &encoder, "--exclude", "zoom*", "--exclude", "bars*"]);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(
        told.contains("1 videos with ") && told.contains("index at least 8 videos with 128 frames at once"),
        "{told}"
    );
    let checkpoint = std::fs::read(place.path("index/checkpoint.safetensors")).unwrap();
    let length = u64::from_le_bytes(checkpoint[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8_lossy(&checkpoint[8..8 + length]).replace('\\', "");
    assert!(header.contains(r#""of":1"#) && header.contains(r#""videos":1"#), "{header}");

    // Ten times as many videos: a new index is suggested.
    assert!(!told.contains("fitted to"), "{told}");
    for i in 0..7 {
        std::fs::copy(videos.join("cells.mkv"), videos.join(format!("copy{i}.mkv"))).unwrap();
    }
    let output = place.run(&["index", "@videos"]);
    let told = text(&output.stderr);
    assert!(told.contains("fitted to 1 video,") && told.contains("the index now holds 10"), "{told}");
}

/// tract trusts a graph: what makes it panic is an error, and nobody is told of a bug.
#[test]
fn an_inconsistent_network_is_an_error_without_a_panic() {
    let place = TestFolder::with_clips();
    let encoder = encoder(&place);
    let mut bytes = std::fs::read(place.path("tiny.onnx")).unwrap();
    // The graph's output, which is described last, is that of no node.
    let at = bytes.windows(8).rposition(|window| window == b"features").unwrap();
    bytes[at..at + 8].copy_from_slice(b"nowheres");
    std::fs::write(place.path("tiny.onnx"), bytes).unwrap();
    let output = place.run(&["index", "@videos", "--encoder", &encoder]);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(told.contains("tiny.onnx: ") && !told.contains("panicked"), "{told}");
}

/// Ctrl-C while something is fitted: nothing is begun, and it is no error.
#[cfg(target_os = "linux")]
#[test]
fn an_interrupt_ends_a_fit() {
    let place = TestFolder::with_clips();
    let encoder = encoder(&place);
    let pid = place.path("pid");
    let stub = fake_ffmpeg(&place, &format!("echo $$ > {}\nexec sleep 600", pid.display()));
    let mut command = place.command(&["index", "@videos", "--encoder", &encoder]);
    command.env("REELSEEK_FFMPEG", &stub).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    wait_for_line(&pid);
    send_signal(&child, Signal::INT);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    assert!(!place.path("index").exists());
}
