//! Names and messages that steer a terminal, forge a line or reorder text. `--json` and `--paths -0` keep
//! them; everything else makes them visible.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Output;

use super::*;

/// Sets the title of a terminal, forges a line, and reverses the text that follows.
const HOSTILE: &str = "a\u{1b}]0;X\u{7}\nreelseek: forged\r\u{9b}2J\u{202e}4pm\u{2028}b";

/// Names of video files. The last is not UTF-8.
const NAMES: [&[u8]; 6] = [
    b"esc\x1b]0;X\x07.mp4",
    b"line\nfailed: forged.mp4",
    b"return\rx.mp4",
    "c1\u{9b}2J.mp4".as_bytes(),
    "bidi\u{202e}4pm.gpj.mp4".as_bytes(),
    b"caf\xe9\x1b.mp4",
];

impl TestFolder {
    /// Copies a clip to `videos/` under every name in [`NAMES`].
    fn with_hostile_names() -> TestFolder {
        let folder = TestFolder::new();
        folder.clip(ZOOM, 3, "../clip.mp4");
        for name in NAMES {
            std::fs::copy(folder.path("clip.mp4"), folder.videos().join(OsStr::from_bytes(name))).unwrap();
        }
        folder
    }
}

/// Checks that no character steers a terminal, and that no line was forged. Returns the lines.
fn harmless_lines(bytes: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(bytes).unwrap();
    let harmful = |c: char| c.is_control() && c != '\n' || "\u{202e}\u{2028}".contains(c);
    assert!(!text.contains(harmful), "{text:?}");
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    assert!(!lines.iter().any(|line| line.contains("forged") && line.starts_with("reelseek: forged")), "{lines:?}");
    lines
}

/// Checks what a command prints, and returns the lines of standard output and of standard error.
fn harmless(output: &Output) -> (Vec<String>, Vec<String>) {
    (harmless_lines(&output.stdout), harmless_lines(&output.stderr))
}

fn raw_names<'a>(paths: impl Iterator<Item = &'a [u8]>) -> BTreeSet<Vec<u8>> {
    paths.map(|path| Path::new(OsStr::from_bytes(path)).file_name().unwrap().as_bytes().to_vec()).collect()
}

/// The bytes of the paths in JSON.
fn json_names(entries: &[Value]) -> BTreeSet<Vec<u8>> {
    let path = |entry: &Value| match entry["path_bytes"].as_array() {
        Some(bytes) => bytes.iter().map(|byte| byte.as_u64().unwrap() as u8).collect(),
        None => entry["path"].as_str().unwrap().as_bytes().to_vec(),
    };
    let paths: Vec<Vec<u8>> = entries.iter().map(path).collect();
    raw_names(paths.iter().map(Vec::as_slice))
}

#[test]
fn hostile_names_of_videos_are_visible_in_text_and_whole_in_json_and_with_null() {
    let folder = TestFolder::with_hostile_names();
    let all: BTreeSet<Vec<u8>> = NAMES.iter().map(|name| name.to_vec()).collect();
    std::fs::write(folder.videos().join(OsStr::from_bytes(b"bro\x1b[2J\nfailed: x.mp4")), "no video").unwrap();
    let (_, notes) = harmless(&folder.run(&["index", "@videos"]));
    assert_eq!(notes.iter().filter(|line| line.starts_with("failed: ")).count(), 1, "{notes:?}");
    let output = folder.run(&["index", "@videos", "--json"]);
    harmless(&output);
    let found: Vec<Value> = events(&json_lines(&output), "unchanged").into_iter().cloned().collect();
    assert_eq!(json_names(&found), all);

    let picture = folder.path("query.png");
    ffmpeg(&["-ss", "1", "-i", folder.path("clip.mp4").to_str().unwrap(), "-frames:v", "1"], &picture);
    let search = |more: &[&str]| folder.success(&[&["search", picture.to_str().unwrap()], more].concat());
    assert_eq!(harmless(&search(&[])).0.len(), 1 + NAMES.len());
    assert_eq!(harmless(&search(&["--paths"])).0.len(), NAMES.len());
    let output = search(&["--json"]);
    harmless(&output);
    assert_eq!(json_names(json_lines(&output)[0]["results"].as_array().unwrap()), all);
    let output = search(&["--paths", "-0"]);
    let paths = output.stdout.strip_suffix(b"\0").unwrap();
    assert_eq!(raw_names(paths.split(|byte| *byte == 0)), all);

    let (listed, _) = harmless(&folder.run(&["info", "--videos"]));
    assert_eq!(listed.iter().filter(|line| line.contains(".mp4")).count(), NAMES.len(), "{listed:?}");
    let output = folder.run(&["info", "--videos", "--json"]);
    harmless(&output);
    assert_eq!(json_names(json_lines(&output)[0]["list"].as_array().unwrap()), all);

    // Each name removes its video, whether the file exists or not.
    let mut command = folder.command(&["remove"]);
    std::fs::remove_file(folder.videos().join(OsStr::from_bytes(NAMES[0]))).unwrap();
    let output = command.args(NAMES.map(|name| folder.videos().join(OsStr::from_bytes(name)))).output().unwrap();
    assert!(harmless(&output).0[0].starts_with("6 videos removed"), "{}", output_text(&output));
}

#[test]
fn hostile_text_in_messages_is_visible() {
    let folder = TestFolder::new();
    folder.clip(ZOOM, 3, "zoom.mp4");
    let picture = folder.frame("zoom.mp4", "1", "query.png");
    let ffmpeg = fake_ffmpeg(&folder, "printf '[error] \\033]0;X\\007 \\302\\233 bad\\n' >&2\nexit 1");
    let output = folder.command(&["index", "@videos"]).env("REELSEEK_FFMPEG", ffmpeg).output().unwrap();
    assert!(harmless(&output).1[0].starts_with("failed: "), "{}", output_text(&output));
    folder.success(&["index", "@videos", "--retry"]);

    let hostile_file = format!("@{HOSTILE}.jpg");
    folder.write(&hostile_file[1..], "no picture");
    let picture = picture.to_str().unwrap();
    let hostile_index = format!("@{HOSTILE}");
    let option = format!("--{HOSTILE}");
    let commands: [&[&str]; 12] = [
        &["search", &hostile_file],
        &["search", HOSTILE],
        &["search", picture, "--filter", HOSTILE],
        &["search", picture, "--filter", &format!("nofield:{HOSTILE}(")],
        &["search", picture, &option],
        &["search", picture, "--top", HOSTILE],
        &["search", &format!("https://{HOSTILE}")],
        &["remove", HOSTILE],
        &["index", HOSTILE],
        &["index", "@videos", "--exclude", &format!("{HOSTILE}[")],
        &["info", "--index", &hostile_index],
        &["encoders", HOSTILE],
    ];
    for arguments in commands {
        let output = folder.run(arguments);
        let (lines, notes) = harmless(&output);
        assert!(!output.status.success(), "{arguments:?}: {lines:?}");
        assert!(!notes.is_empty(), "{arguments:?}");
    }

    folder.success(&["index", "@videos/zoom.mp4", "--index", &hostile_index]);
    let (described, _) = harmless(&folder.success(&["info", "--index", &hostile_index]));
    assert!(described[0].starts_with("index "), "{described:?}");
    harmless(&folder.success(&["compact", "--index", &hostile_index]));
    harmless(&folder.success(&["verify", "--index", &hostile_index]));
    let segments = std::fs::read_dir(folder.path(HOSTILE).join("segments")).unwrap();
    segments.for_each(|file| std::fs::write(file.unwrap().path(), "damage").unwrap());
    let output = folder.run(&["verify", "--index", &hostile_index]);
    assert!(harmless(&output).1[0].starts_with("reelseek: "), "{}", output_text(&output));
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn hostile_text_forges_no_line_of_the_log() {
    let folder = TestFolder::new();
    let hostile_index = format!("@{HOSTILE}");
    for format in ["text", "json"] {
        let server = folder.serve(&["--await-index", "--index", &hostile_index, "--log", format]);
        server.json("/v1/info");
        wait_until("the request is in the log", || server.log().contains("/v1/info"));
        let log = server.log();
        let lines = harmless_lines(log.as_bytes());
        assert!(lines.iter().any(|line| line.contains("there is no index at") && line.contains("forged")), "{log}");
        let warning = lines.iter().find(|line| line.contains("forged")).unwrap();
        match format {
            "json" => {
                let value: Value = serde_json::from_str(warning).unwrap();
                assert!(value["message"].as_str().unwrap().contains(HOSTILE), "{value}");
            }
            _ => assert!(warning.contains(r"\nreelseek: forged\r\u{9b}2J\u{202e}4pm"), "{warning}"),
        }
    }
}
