//! The end of ffmpeg: it never outlives the program.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::support::*;

/// The promise is one second. A machine on which all tests run at once may be late.
const SOON: Duration = Duration::from_secs(5);

/// Environment variable that marks all processes of a test.
const MARK: &str = "REELSEEK_TEST_PROCESSES";

/// Numbers and command lines of the processes that the program has started for this folder, other than
/// itself.
fn children(folder: &TestFolder, program: &Child) -> Vec<(u32, String)> {
    let mark = format!("{MARK}={}\0", folder.root().display());
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let marked = numbers.filter(|pid| {
        // A process that has ended has no environment.
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.windows(mark.len()).any(|window| window == mark.as_bytes()) && *pid != program.id()
    });
    let command = |pid: &u32| text(&std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default());
    marked.map(|pid| (pid, command(&pid).replace('\0', " "))).collect()
}

fn assert_no_children(folder: &TestFolder, program: &Child, what: &str) {
    let start = Instant::now();
    loop {
        let living = children(folder, program);
        if living.is_empty() {
            return;
        }
        assert!(start.elapsed() < SOON, "{what}: {living:?} live on");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Starts `index` with a script instead of ffmpeg, and waits until the script has started.
fn index_with(folder: &TestFolder, script: &str) -> Child {
    let (path, pid) = (folder.path("ffmpeg-stand-in"), folder.path("pid"));
    write_script(&path, &format!("[ \"$2\" = -version ] && exit 0\necho $$ > {}\n{script}", pid.display()));
    let _ = std::fs::remove_file(&pid);
    let mut command = folder.command(&["index", "@videos", "--jobs", "1"]);
    command.env("REELSEEK_FFMPEG", path).env(MARK, folder.root());
    let program = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("ffmpeg runs", || std::fs::read_to_string(&pid).is_ok_and(|text| text.ends_with('\n')));
    program
}

#[test]
fn no_ffmpeg_outlives_the_program_whatever_ends_it() {
    let folder = TestFolder::new();
    folder.clip(ZOOM, 2, "zoom.mp4");
    let scripts = [
        "exec sleep 600",
        // A wrapper that has children.
        "sleep 600",
        "(sleep 600; echo) & sleep 600 & wait",
        "while :; do :; done",
        "trap '' HUP INT TERM PIPE\nwhile :; do sleep 600; done",
    ];
    for script in scripts {
        for signal in [Signal::KILL, Signal::TERM, Signal::HUP, Signal::INT, Signal::ABORT] {
            let mut program = index_with(&folder, script);
            send_signal(&program, signal);
            program.wait().unwrap();
            assert_no_children(&folder, &program, &format!("{script} after {signal:?}"));
        }
    }
}

#[test]
fn the_limits_of_ffmpeg_are_those_of_its_process() {
    let folder = TestFolder::new();
    folder.clip(ZOOM, 2, "zoom.mp4");
    let mut program = index_with(&folder, "exec sleep 600");
    let pid = folder.read_text("pid");
    let limits = || std::fs::read_to_string(format!("/proc/{}/limits", pid.trim())).unwrap();
    let limited = |name: &str| limits().lines().any(|line| line.starts_with(name) && !line.contains("unlimited"));
    wait_until("both are limited", || limited("Max cpu time") && limited("Max address space"));
    program.kill().unwrap();
    program.wait().unwrap();
}

/// A server whose ffmpeg decodes no faster than the video plays, so that it can be met at work.
fn serve_slowly(folder: &TestFolder) -> ServerProcess {
    folder.clip(ZOOM, 12, "zoom.mp4");
    folder.index(&[]);
    let slow: PathBuf = folder.path("ffmpeg-slow");
    write_script(&slow, "case \"$*\" in *-i*) exec ffmpeg -re \"$@\";; *) exec ffmpeg \"$@\";; esac");
    let mut command: Command = folder.serve_command(&[]);
    command.env("REELSEEK_FFMPEG", slow).env(MARK, folder.root());
    ServerProcess::start(command, folder)
}

#[test]
fn a_server_that_ends_leaves_no_ffmpeg() {
    let folder = TestFolder::new();
    for (signal, code) in [(Signal::KILL, None), (Signal::TERM, Some(0)), (Signal::HUP, Some(0))] {
        let mut server = serve_slowly(&folder);
        let id = server.json("/v1/videos")["videos"][0]["video"].as_str().unwrap().to_owned();
        let requests = [format!("thumbnail?video={id}&at=11"), format!("preview?video={id}&from=9&to=11")];
        let sockets = requests.map(|path| {
            let mut socket = server.connect();
            write!(socket, "GET /v1/{path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            socket
        });
        // The reader is late for the output, so it must be at work for seconds.
        let at_work = |option: &str| children(&folder, &server.child).iter().any(|(_, line)| line.contains(option));
        wait_until("both are made", || at_work("image2pipe") && at_work("-progress"));
        let start = Instant::now();
        send_signal(&server.child, signal);
        assert_eq!(server.child.wait().unwrap().code(), code);
        assert!(start.elapsed() < SOON, "it cancels its work: {:?}", start.elapsed());
        assert_no_children(&folder, &server.child, &format!("{signal:?}"));
        drop(sockets);
        let _ = std::fs::remove_dir_all(folder.path("cache"));
    }
}
