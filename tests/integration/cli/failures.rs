//! Files and decoders that fail: what is reported, remembered and left behind.

use super::*;

#[test]
fn an_undecodable_file_is_decoded_again_only_if_changed_or_with_retry() {
    let place = TestFolder::with_clips();
    std::fs::write(place.videos().join("broken.mp4"), "no video").unwrap();
    let first = place.index(&[]);
    let reason = |all: &[Value]| events(all, "failed")[0]["error"].as_str().unwrap().to_owned();
    assert!(!reason(&first).contains("--retry"));
    assert!(reason(&place.index(&[])).contains("--retry"), "told again, from memory");
    assert!(!reason(&place.index(&["--retry"])).contains("--retry"), "decoded again");
    place.clip(BARS, 3, "broken.mp4");
    assert_eq!(place.index(&[]).last().unwrap()["indexed"], 1);
    assert_eq!(place.index(&[]).last().unwrap()["failed"], 0);
}

#[cfg(unix)]
#[test]
fn a_killed_decoder_leaves_no_partial_video() {
    let place = TestFolder::with_clips();
    place.index(&[]);
    place.clip(ZOOM, 8, "zoom.mp4");
    // Some frames, and then what the system does when memory runs out.
    for end in ["kill -9 $$", "kill -9 $$", "sh -c 'kill -9 $$'\nexit $?"] {
        let killed = fake_ffmpeg(&place, &format!("head -c 200000 /dev/zero\n{end}"));
        let told = index_with(&place, &killed);
        let failed = events(&told, "failed");
        assert_eq!(failed.len(), 1, "{told:?}");
        assert!(failed[0]["error"].as_str().unwrap().contains("ended from outside"), "{failed:?}");
    }
    assert_eq!(place.index(&[]).last().unwrap()["indexed"], 1, "a healthy ffmpeg takes it up");
}

/// Runs `index --json` with another program instead of ffmpeg.
#[cfg(unix)]
fn index_with(place: &TestFolder, ffmpeg: &Path) -> Vec<Value> {
    let mut command = place.command(&["index", "@videos", "--json"]);
    json_lines(&command.env("REELSEEK_FFMPEG", ffmpeg).output().unwrap())
}

#[cfg(unix)]
#[test]
fn a_failure_of_the_machine_is_not_remembered() {
    let place = TestFolder::new();
    place.clip(ZOOM, 4, "zoom.mp4");
    for fault in ["[error] Cannot allocate memory", "sh: 1: ffmpeg: not found"] {
        let code = if fault.starts_with("sh") { 127 } else { 1 };
        let failing = fake_ffmpeg(&place, &format!("echo '{fault}' >&2\nexit {code}"));
        for _ in 0..2 {
            let told = index_with(&place, &failing);
            let error = events(&told, "failed")[0]["error"].as_str().unwrap().to_owned();
            assert!(!error.contains("--retry"), "{error}");
        }
    }
    assert_eq!(place.index(&[]).last().unwrap()["indexed"], 1);
}

#[test]
fn a_file_cut_short_is_remembered_though_ffmpeg_speaks_of_input_and_output() {
    let place = TestFolder::with_clips();
    place.clip(ZOOM, 4, "cut.mkv");
    let cut = place.videos().join("cut.mkv");
    std::fs::OpenOptions::new().write(true).open(&cut).unwrap().set_len(120).unwrap();
    let error = |all: &[Value]| events(all, "failed")[0]["error"].as_str().unwrap().to_owned();
    assert!(error(&place.index(&[])).contains("Input/output error"), "what this test is about");
    assert!(error(&place.index(&[])).contains("--retry"), "told from memory");
}

#[cfg(unix)]
#[test]
fn a_drive_that_fails_for_a_moment_leaves_no_half_video() {
    let place = TestFolder::new();
    place.clip(ZOOM, 8, "zoom.mp4");
    let rows = place.index(&[]).last().unwrap()["rows"].clone();
    std::fs::remove_dir_all(place.path("index")).unwrap();
    let seen = place.path("seen");
    let seen = seen.display();
    let fail = "head -c 200000 /dev/zero; echo '[error] file:x: Input/output error' >&2; exit 0";
    let once = fake_ffmpeg(&place, &format!("[ -e {seen} ] || {{ : > {seen}; {fail}; }}\nexec ffmpeg \"$@\""));
    let told = index_with(&place, &once);
    assert_eq!(told.last().unwrap()["rows"], rows, "{told:?}");
    assert!(events(&told, "indexed")[0]["warning"].is_null(), "{told:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_broken_file_with_a_non_utf8_name_fails_alone() {
    use std::os::unix::ffi::OsStrExt;
    let place = TestFolder::with_clips();
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9.mp4");
    std::fs::write(place.videos().join(name), "junk").unwrap();
    let first = place.index(&[]);
    assert_eq!(events(&first, "failed").len(), 1, "{first:?}");
    let again = place.index(&[]);
    assert!(events(&again, "failed")[0]["error"].as_str().unwrap().contains("--retry"), "{again:?}");
    assert_eq!(again.last().unwrap()["indexed"], 0, "{again:?}");
    std::fs::remove_file(place.videos().join(name)).unwrap();
    assert_eq!(place.index(&[]).last().unwrap()["failed"], 0);
}

#[cfg(unix)]
#[test]
fn a_file_that_disappears_while_decoding_fails() {
    let place = TestFolder::new();
    place.clip(ZOOM, 4, "zoom.mp4");
    let (path, aside) = (place.videos().join("zoom.mp4"), place.path("aside.mp4"));
    let unplugged =
        fake_ffmpeg(&place, &format!("head -c 200000 /dev/zero\nmv {} {}", path.display(), aside.display()));
    let told = index_with(&place, &unplugged);
    assert_eq!(events(&told, "failed").len(), 1, "{told:?}");
    std::fs::rename(&aside, &path).unwrap();
    assert_eq!(place.index(&[]).last().unwrap()["indexed"], 1);
}

#[cfg(unix)]
#[test]
fn remembered_failures_are_short_and_dropped_with_the_file() {
    let place = TestFolder::with_clips();
    place.index(&[]);
    let broken = place.videos().join("n".repeat(240) + ".mp4");
    std::fs::write(&broken, "no video").unwrap();
    let long = fake_ffmpeg(&place, "head -c 4000 /dev/zero | tr '\\0' x | sed 's/^/[error] /' >&2\nexit 1");
    assert_eq!(events(&index_with(&place, &long), "failed").len(), 1);
    let failed = || {
        let index = reelseek_index::Index::open(place.path("index")).unwrap();
        reelseek::collection::CollectionState::of(&index.searcher().unwrap()).failed
    };
    assert_eq!(failed().len(), 1);
    assert!(failed().values().all(|f| f.reason.len() <= 256 && f.reason.contains("xxx")), "{:?}", failed());
    std::fs::remove_file(&broken).unwrap();
    place.index(&[]);
    assert_eq!(failed().len(), 0);
}

#[cfg(target_os = "linux")]
#[test]
fn an_interrupt_ends_the_children_of_a_wrapper_script() {
    let place = TestFolder::with_clips();
    let pid = place.path("pid");
    let wrapper = fake_ffmpeg(&place, &format!("sleep 600 &\necho $! > {}\nwait", pid.display()));
    let mut child = place
        .command(&["index", "@videos", "--jobs", "1"])
        .env("REELSEEK_FFMPEG", &wrapper)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let grandchild = wait_for_line(&pid);
    send_signal(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    // Its parent is gone, so that the system reaps it, in its own time.
    let gone = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        let state = std::fs::read_to_string(format!("/proc/{grandchild}/stat")).unwrap_or_default();
        state.is_empty() || state.contains(") Z ")
    });
    assert!(gone, "process {grandchild} lives on");
}
