//! Files and decoders that fail: reports, remembered failures and cleanup.

use super::*;

#[test]
fn an_undecodable_file_is_decoded_again_only_if_changed_or_with_retry() {
    let folder = TestFolder::with_clips();
    folder.write("videos/broken.mp4", "no video");
    let first = folder.index(&[]);
    let reason = |all: &[Value]| events(all, "failed")[0]["error"].as_str().unwrap().to_owned();
    assert!(!reason(&first).contains("--retry"));
    assert!(reason(&folder.index(&[])).contains("--retry"), "reported again, from the index");
    assert!(!reason(&folder.index(&["--retry"])).contains("--retry"), "decoded again");
    folder.clip(BARS, 3, "broken.mp4");
    assert_eq!(folder.index(&[]).last().unwrap()["indexed"], 1);
    assert_eq!(folder.index(&[]).last().unwrap()["failed"], 0);
}

#[cfg(unix)]
#[test]
fn a_killed_decoder_leaves_no_partial_video() {
    let folder = TestFolder::with_clips();
    folder.index(&[]);
    folder.clip(ZOOM, 8, "zoom.mp4");
    // The decoder writes some frames and is then killed, as the system does when memory runs out.
    for end in ["kill -9 $$", "kill -9 $$", "sh -c 'kill -9 $$'\nexit $?"] {
        let killed = fake_ffmpeg(&folder, &format!("head -c 200000 /dev/zero\n{end}"));
        let found = index_with(&folder, &killed);
        let failed = events(&found, "failed");
        assert_eq!(failed.len(), 1, "{found:?}");
        assert!(failed[0]["error"].as_str().unwrap().contains("ended from outside"), "{failed:?}");
    }
    assert_eq!(folder.index(&[]).last().unwrap()["indexed"], 1, "a healthy ffmpeg takes it up");
}

/// Runs `index --json` with another program instead of ffmpeg.
#[cfg(unix)]
fn index_with(folder: &TestFolder, ffmpeg: &Path) -> Vec<Value> {
    let mut command = folder.command(&["index", "@videos", "--json"]);
    json_lines(&command.env("REELSEEK_FFMPEG", ffmpeg).output().unwrap())
}

#[cfg(unix)]
#[test]
fn a_failure_of_the_machine_is_not_remembered() {
    let folder = TestFolder::new();
    folder.clip(ZOOM, 4, "zoom.mp4");
    for fault in ["[error] Cannot allocate memory", "sh: 1: ffmpeg: not found"] {
        let code = if fault.starts_with("sh") { 127 } else { 1 };
        let failing = fake_ffmpeg(&folder, &format!("echo '{fault}' >&2\nexit {code}"));
        for _ in 0..2 {
            let found = index_with(&folder, &failing);
            let error = events(&found, "failed")[0]["error"].as_str().unwrap().to_owned();
            assert!(!error.contains("--retry"), "{error}");
        }
    }
    assert_eq!(folder.index(&[]).last().unwrap()["indexed"], 1);
}

#[test]
fn a_file_cut_short_is_remembered_though_ffmpeg_speaks_of_input_and_output() {
    let folder = TestFolder::with_clips();
    folder.clip(ZOOM, 4, "cut.mkv");
    let cut = folder.videos().join("cut.mkv");
    std::fs::OpenOptions::new().write(true).open(&cut).unwrap().set_len(120).unwrap();
    let error = |all: &[Value]| events(all, "failed")[0]["error"].as_str().unwrap().to_owned();
    assert!(error(&folder.index(&[])).contains("Input/output error"), "what this test is about");
    assert!(error(&folder.index(&[])).contains("--retry"), "reported from the index");
}

#[cfg(unix)]
#[test]
fn a_drive_that_fails_for_a_moment_leaves_no_half_video() {
    let folder = TestFolder::new();
    folder.clip(ZOOM, 8, "zoom.mp4");
    let rows = folder.index(&[]).last().unwrap()["rows"].clone();
    std::fs::remove_dir_all(folder.path("index")).unwrap();
    let seen = folder.path("seen");
    let seen = seen.display();
    let fail = "head -c 200000 /dev/zero; echo '[error] file:x: Input/output error' >&2; exit 0";
    let once = fake_ffmpeg(&folder, &format!("[ -e {seen} ] || {{ : > {seen}; {fail}; }}\nexec ffmpeg \"$@\""));
    let found = index_with(&folder, &once);
    assert_eq!(found.last().unwrap()["rows"], rows, "{found:?}");
    assert!(events(&found, "indexed")[0]["warning"].is_null(), "{found:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_signal_that_is_ignored_at_the_start_stays_ignored() {
    let folder = TestFolder::new();
    folder.clip(ZOOM, 4, "zoom.mp4");
    let (started, go) = (folder.path("started"), folder.path("go"));
    let wait = format!(": > {}; while ! [ -e {} ]; do sleep 0.05; done", started.display(), go.display());
    let slow = fake_ffmpeg(&folder, &format!("{wait}\nexec ffmpeg \"$@\""));
    // `nohup` ignores SIGHUP; a shell without job control ignores SIGINT for a process in the background.
    for (ignored, signal, code) in [
        ("HUP INT", Signal::HUP, Some(0)),
        ("HUP INT", Signal::INT, Some(0)),
        ("QUIT", Signal::HUP, Some(130)),
        ("QUIT", Signal::INT, Some(130)),
    ] {
        for file in [&started, &go] {
            let _ = std::fs::remove_file(file);
        }
        let _ = std::fs::remove_dir_all(folder.path("index"));
        let program = env!("CARGO_BIN_EXE_reelseek");
        let mut command = Command::new("sh");
        command.args(["-c", &format!("trap '' {ignored}; exec \"$0\" index \"$1\""), program]).arg(folder.videos());
        command.env("REELSEEK_INDEX", folder.path("index")).env("REELSEEK_FFMPEG", &slow);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_until("ffmpeg starts", || started.exists());
        send_signal(&child, signal);
        if code == Some(0) {
            std::thread::sleep(Duration::from_millis(200));
            assert!(child.try_wait().unwrap().is_none(), "{signal:?} has no effect");
            std::fs::write(&go, "").unwrap();
        }
        assert_eq!(child.wait().unwrap().code(), code, "trap '' {ignored}, {signal:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_broken_file_with_a_non_utf8_name_fails_alone() {
    use std::os::unix::ffi::OsStrExt;
    let folder = TestFolder::with_clips();
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9.mp4");
    std::fs::write(folder.videos().join(name), "junk").unwrap();
    let first = folder.index(&[]);
    assert_eq!(events(&first, "failed").len(), 1, "{first:?}");
    let again = folder.index(&[]);
    assert!(events(&again, "failed")[0]["error"].as_str().unwrap().contains("--retry"), "{again:?}");
    assert_eq!(again.last().unwrap()["indexed"], 0, "{again:?}");
    std::fs::remove_file(folder.videos().join(name)).unwrap();
    assert_eq!(folder.index(&[]).last().unwrap()["failed"], 0);
}

#[cfg(unix)]
#[test]
fn a_file_that_disappears_while_decoding_fails() {
    let folder = TestFolder::new();
    folder.clip(ZOOM, 4, "zoom.mp4");
    let (path, aside) = (folder.videos().join("zoom.mp4"), folder.path("aside.mp4"));
    let unplugged =
        fake_ffmpeg(&folder, &format!("head -c 200000 /dev/zero\nmv {} {}", path.display(), aside.display()));
    let found = index_with(&folder, &unplugged);
    assert_eq!(events(&found, "failed").len(), 1, "{found:?}");
    std::fs::rename(&aside, &path).unwrap();
    assert_eq!(folder.index(&[]).last().unwrap()["indexed"], 1);
}

#[cfg(unix)]
#[test]
fn remembered_failures_are_short_and_dropped_with_the_file() {
    let folder = TestFolder::with_clips();
    folder.index(&[]);
    let broken = folder.videos().join("n".repeat(240) + ".mp4");
    // Not text, so that ffmpeg gives the reason.
    std::fs::write(&broken, [0, 1, 2, 0xfe]).unwrap();
    let long = fake_ffmpeg(&folder, "head -c 4000 /dev/zero | tr '\\0' x | sed 's/^/[error] /' >&2\nexit 1");
    assert_eq!(events(&index_with(&folder, &long), "failed").len(), 1);
    let failed = || {
        let index = reelseek_index::Index::open(folder.path("index")).unwrap();
        reelseek::collection::CollectionState::of(&index.searcher().unwrap()).failed
    };
    assert_eq!(failed().len(), 1);
    assert!(failed().values().all(|f| f.reason.len() <= 256 && f.reason.contains("xxx")), "{:?}", failed());
    std::fs::remove_file(&broken).unwrap();
    folder.index(&[]);
    assert_eq!(failed().len(), 0);
}

#[cfg(target_os = "linux")]
#[test]
fn an_interrupt_ends_the_children_of_a_wrapper_script() {
    let folder = TestFolder::with_clips();
    let pid = folder.path("pid");
    let wrapper = fake_ffmpeg(&folder, &format!("sleep 600 &\necho $! > {}\nwait", pid.display()));
    let mut child = folder
        .command(&["index", "@videos", "--jobs", "1"])
        .env("REELSEEK_FFMPEG", &wrapper)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let grandchild = wait_for_line(&pid);
    send_signal(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    // Its parent has ended, so the system reaps it, which may take a while.
    let gone = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        let state = std::fs::read_to_string(format!("/proc/{grandchild}/stat")).unwrap_or_default();
        state.is_empty() || state.contains(") Z ")
    });
    assert!(gone, "process {grandchild} lives on");
}

#[test]
fn of_two_first_runs_at_once_each_succeeds_or_says_that_another_writes() {
    let folder = TestFolder::new();
    for (source, name) in [(ZOOM, "zoom.mp4"), (BARS, "bars.avi")] {
        folder.clip(source, 2, name);
    }
    for round in 0..6 {
        let index = format!("@new{round}");
        let start = |_| {
            let mut command = folder.command(&["index", "@videos", "--index", &index]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let runs = [0, 1, 2].map(start).map(|run| run.wait_with_output().unwrap());
        assert!(runs.iter().any(|run| run.status.success()), "{}", runs.each_ref().map(output_text).join("\n"));
        for run in runs.iter().filter(|run| !run.status.success()) {
            let message = text(&run.stderr);
            assert!(message.contains("is being written by another process"), "{message}");
        }
        folder.success(&["verify", "--index", &index]);
        assert_eq!(folder.json(&["info", "--json", "--index", &index])["videos"], 2);
        let names = std::fs::read_dir(folder.path(&index[1..])).unwrap();
        let mut names: Vec<String> = names.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names.retain(|name| name != "kind");
        assert_eq!(names, ["segments", "text"]);
    }
}

#[test]
fn a_long_gap_takes_no_time_and_its_moment_covers_it() {
    let folder = TestFolder::new();
    // The scene of second 0 is displayed for 25 hours, then another scene begins.
    let clip = folder.videos().join("gap.mp4");
    let late = "setpts='PTS+90000*gte(T,1)/TB'";
    let source = format!("{BARS}:duration=6");
    ffmpeg(&["-f", "lavfi", "-i", &source, "-vf", late, "-vsync", "passthrough", "-pix_fmt", "yuv420p"], &clip);
    let start = std::time::Instant::now();
    folder.index(&[]);
    let took = start.elapsed();
    let video = &folder.info()["list"][0];
    assert!(video["duration"].as_f64().unwrap() > 90_000.0, "{video}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    let answer = folder.search(&folder.frame("gap.mp4", "0.9", "early.png"), &[]).1;
    let first = &answer["results"][0];
    assert!(first["to"].as_f64().unwrap() > 89_990.0, "{answer}");
    let answer = folder.search(&folder.frame("gap.mp4", "90004", "late.png"), &[]).1;
    let at = answer["results"][0]["at"].as_f64().unwrap();
    assert!((90_001.0..90_006.0).contains(&at), "{answer}");
}
