//! What people try first: wrong paths, files that are no videos, folders that were moved, searches without
//! results.

use super::*;

#[test]
fn files_that_are_no_videos_are_named_for_what_they_are() {
    let folder = TestFolder::new();
    folder.clip(ZOOM, 3, "zoom.mp4");
    folder.frame("zoom.mp4", "1", "picture.jpg");
    folder.write("notes.txt", "some notes\n");
    folder.write("scan.mp4", "%PDF-1.7\n\u{1}");
    folder.write("empty.mp4", "");
    for (name, words) in [
        ("picture.jpg", "this is a JPEG picture, not a video; `reelseek search` searches with a picture"),
        ("notes.txt", "this is a text file, not a video"),
        ("scan.mp4", "this is a PDF document, not a video"),
        ("empty.mp4", "the file is empty"),
    ] {
        let output = folder.run(&["index", &format!("@{name}")]);
        let message = text(&output.stderr);
        assert!(message.contains(&format!("{name}: {words}")), "{message}");
        assert_eq!(output.status.code(), Some(2), "{name}");
    }
}

#[test]
fn a_file_with_a_picture_or_a_stream_in_it_is_no_video() {
    let folder = TestFolder::new();
    folder.clip(ZOOM, 3, "zoom.ts");
    let picture = folder.frame("zoom.ts", "1", "picture.jpg");
    let (picture, stream) = (std::fs::read(picture).unwrap(), folder.read("videos/zoom.ts"));
    let with = |head: &[u8], content: &[u8]| [head, content].concat();
    let tar = |content: &[u8]| {
        let mut head = vec![0; 512];
        head[..1].copy_from_slice(b"x");
        head[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        let sum: u32 = 8 * u32::from(b' ') + head.iter().map(|byte| u32::from(*byte)).sum::<u32>();
        head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        [&head, content, &vec![0; 1024 - content.len() % 512]].concat()
    };
    for (name, bytes, words) in [
        ("tar_picture.mp4", tar(&picture), "this is a tar archive, not a video"),
        ("tar_stream.mp4", tar(&stream), "this is a tar archive, not a video"),
        ("zip_picture.mp4", with(b"PK\x03\x04\x14\0\0\0", &picture), "this is a ZIP archive"),
        ("zip_stream.mp4", with(b"PK\x03\x04\x14\0\0\0", &stream), "this is a ZIP archive"),
        ("pdf_picture.mp4", with(b"%PDF-1.7\n\x01", &picture), "this is a PDF document"),
        ("unknown_picture.mp4", with(&[0; 512], &picture), "no video could be decoded"),
    ] {
        folder.write(name, bytes);
        let output = folder.run(&["index", &format!("@{name}")]);
        let message = text(&output.stderr);
        assert!(message.contains(&format!("{name}: {words}")), "{message}");
        assert_eq!(output.status.code(), Some(2), "{name}");
    }
    // A stream whose first bytes are lost is a video.
    folder.write("cut.ts", &stream[100..]);
    folder.success(&["index", "@cut.ts"]);
}

#[test]
fn a_file_in_the_place_of_the_index_is_named() {
    let folder = TestFolder::new();
    folder.clip(ZOOM, 3, "zoom.mp4");
    folder.frame("zoom.mp4", "1", "picture.png");
    folder.write("file", "x");
    for index in ["@file", "@file/deep"] {
        for arguments in [&["index", "@videos"][..], &["search", "@picture.png"], &["info"], &["serve", "@videos"]] {
            let output = folder.run(&[arguments, &["--index", index]].concat());
            let message = text(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
            assert!(message.contains("file: not a folder for an index, but a file; name a folder"), "{message}");
        }
    }
}

#[test]
fn weights_for_an_encoder_without_weights_are_an_error() {
    let folder = TestFolder::new();
    folder.clip(ZOOM, 3, "zoom.mp4");
    folder.frame("zoom.mp4", "1", "picture.png");
    folder.write("weights", "x");
    for arguments in [
        &["index", "@videos"][..],
        &["index", "@videos", "--encoder", "layout"],
        &["extract", "@videos", "--out", "@features"],
        &["train", "--videos", "@videos", "--out", "@checkpoint.safetensors"],
        // From here on there is an index.
        &["search", "@picture.png"],
        &["index", "@videos"],
        &["serve"],
    ] {
        if arguments[0] == "search" {
            folder.index(&[]);
        }
        let output = folder.run(&[arguments, &["--weights", "@weights"]].concat());
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(message.contains("the encoder layout has no weights file, found "), "{arguments:?}: {message}");
        assert!(message.contains("the encoders mobilenet-v2, clip, "), "{message}");
    }
}

#[test]
fn a_named_path_that_cannot_be_read_is_an_error() {
    let folder = TestFolder::new();
    folder.clip(ZOOM, 3, "zoom.mp4");
    let zoom = "@videos/zoom.mp4/inside.mp4";
    for arguments in [&["index", "@videos", zoom][..], &["index", "@videos", "@missing"]] {
        let output = folder.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{}", output_text(&output));
        assert!(text(&output.stdout).contains("1 video with "), "{}", output_text(&output));
    }
    for arguments in [
        &["quality", "@missing"][..],
        &["extract", "@videos", "@missing", "--out", "@features"],
        &["train", "--videos", "@videos", "@missing", "--out", "@checkpoint.safetensors"],
        &["serve", "@missing"],
        &["search", "@missing"],
    ] {
        let output = folder.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", output_text(&output));
        assert!(text(&output.stderr).contains("missing: "), "{arguments:?}: {}", text(&output.stderr));
    }
}

#[test]
fn videos_of_a_folder_that_was_moved_can_be_removed() {
    let folder = TestFolder::new();
    folder.clip(ZOOM, 3, "a.mp4");
    folder.clip(BARS, 3, "sub/b.mp4");
    folder.index(&[]);
    let picture = folder.frame("a.mp4", "1", "picture.png");
    std::fs::rename(folder.videos(), folder.path("moved")).unwrap();
    let search = folder.run(&["search", picture.to_str().unwrap()]);
    assert!(text(&search.stderr).contains("not at this path any more"), "{}", text(&search.stderr));

    let output = folder.run(&["index", "@videos", "--prune"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("the index keeps 2 videos under paths that are not found"));
    assert!(text(&output.stderr).contains("`reelseek remove PATH`"), "{}", text(&output.stderr));
    let removed = |name: &str| text(&folder.success(&["remove", name]).stdout);
    assert!(removed("@videos/sub").starts_with("1 video removed"));
    assert!(removed("@videos").starts_with("1 video removed"));
    assert_eq!(folder.run(&["remove", "@videos"]).status.code(), Some(1));
}

#[test]
fn videos_that_are_excluded_later_stay_and_are_named() {
    let folder = TestFolder::new();
    folder.clip(ZOOM, 3, "cat.mp4");
    folder.clip(BARS, 3, "old/dog.mp4");
    folder.index(&[]);
    let output = folder.success(&["index", "@videos", "--exclude", "cat*", "--exclude", "old"]);
    assert!(
        text(&output.stderr).contains("the index keeps 2 videos that --exclude matches"),
        "{}",
        text(&output.stderr)
    );
    assert!(text(&folder.success(&["index", "@videos"]).stderr).is_empty());
}

#[test]
fn a_search_with_a_flat_picture_says_so() {
    let folder = TestFolder::new();
    folder.clip(ZOOM, 3, "zoom.mp4");
    folder.index(&[]);
    let black = folder.path("black.png");
    ffmpeg(&["-f", "lavfi", "-i", "color=black:size=64x64", "-frames:v", "1"], &black);
    let output = folder.run(&["search", black.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("the picture is one flat colour"), "{}", text(&output.stderr));
}
