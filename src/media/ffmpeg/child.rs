//! The child process: pipes, watchdog, end.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::Limits;
use crate::base::Cancel;
use crate::media::Error;

/// How often the watchdog looks.
const WATCH_EVERY: Duration = Duration::from_millis(50);
/// Complaints kept of each file, and bytes of each.
const MAX_COMPLAINTS: usize = 3;
const MAX_LINE_BYTES: u64 = 4096;

/// Niceness of a child in the background.
#[cfg(unix)]
const BACKGROUND: i32 = 10;

/// How long a child that has closed its output may take to end, and its talk to be heard.
const PATIENCE: Duration = Duration::from_secs(5);

/// A running ffmpeg. Dropping it kills the process with all that it started, and reaps it.
#[derive(Debug)]
pub(super) struct Child {
    path: PathBuf,
    process: Arc<Mutex<Process>>,
    stdout: ChildStdout,
    talk: mpsc::Receiver<Talk>,
    watch: Arc<Watch>,
    /// Dropping it ends the watchdog at once.
    _watchdog: mpsc::Sender<()>,
    cancel: Cancel,
}

/// What reader and watchdog tell each other.
#[derive(Debug)]
struct Watch {
    started: Instant,
    /// Milliseconds after `started` at which bytes last came.
    progress_ms: AtomicU64,
    /// Why the watchdog ended the child.
    reason: Mutex<Option<String>>,
    /// The container's length, as soon as it is told.
    announced_ms: OnceLock<u64>,
}

impl Watch {
    fn note_progress(&self) {
        self.progress_ms.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }
}

/// What ffmpeg wrote on its standard error.
#[derive(Debug, Default)]
struct Talk {
    complaints: Vec<String>,
    more: usize,
    /// ffmpeg says that it ends because it was asked to.
    asked_to_end: bool,
    format: Option<String>,
    first_s: Option<f64>,
}

/// What a child told of its file, by its end.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The container's length in milliseconds.
    pub(super) duration_ms: Option<u64>,
    /// What ffmpeg complained of.
    pub(super) complaints: Option<String>,
    /// The names of the container's format.
    pub(super) format: Option<String>,
    /// The time of the first frame that passed the filter `showinfo`, in seconds.
    pub(super) first_s: Option<f64>,
}

impl Child {
    pub(super) fn start(mut command: Command, path: &Path, limits: &Limits, cancel: &Cancel) -> Result<Child, Error> {
        let program = command.get_program().to_string_lossy().into_owned();
        // A group of its own: a wrapper script is ended together with what it runs, and Ctrl-C reaches us alone.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| Error::NoFfmpeg { program, reason: e.to_string() })?;
        limit_memory(&process, limits.memory_bytes);
        if limits.background {
            step_back(&process);
        }
        let stdout = process.stdout.take().expect("standard output is piped");
        let stderr = process.stderr.take().expect("standard error is piped");
        let name = path.to_string_lossy().into_owned();
        let watch = Arc::new(Watch {
            started: Instant::now(),
            progress_ms: AtomicU64::new(0),
            reason: Mutex::new(None),
            announced_ms: OnceLock::new(),
        });
        let (speaker, talk) = mpsc::channel();
        let heard = watch.clone();
        std::thread::spawn(move || {
            // Nobody listens any more if the child was dropped.
            let _ = speaker.send(listen(stderr, &name, &heard.announced_ms));
        });
        let process = Arc::new(Mutex::new(Process { child: process, reaped: false }));
        let (watchdog, ended) = mpsc::channel();
        {
            let (process, watch, limits, cancel) = (process.clone(), watch.clone(), limits.clone(), cancel.clone());
            std::thread::spawn(move || guard(&process, &watch, &limits, &cancel, &ended));
        }
        Ok(Child { path: path.to_owned(), process, stdout, talk, watch, _watchdog: watchdog, cancel: cancel.clone() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The container's length in milliseconds, if it has been told.
    pub(super) fn announced_ms(&self) -> Option<u64> {
        self.watch.announced_ms.get().copied()
    }

    /// Ends the child and gives the error that says why.
    pub(super) fn limit(&mut self, what: String) -> Error {
        kill(&self.process);
        Error::Limit { path: self.path.clone(), what }
    }

    /// Fills the buffer; `false` at the end, also if the last picture is cut off.
    pub(super) fn read_exact(&mut self, buffer: &mut [u8]) -> Result<bool, Error> {
        let mut filled = 0;
        // The child is idle only while we wait for it, not while we think.
        self.watch.note_progress();
        while filled < buffer.len() {
            match self.stdout.read(&mut buffer[filled..]) {
                Ok(0) => {
                    self.stopped()?;
                    return Ok(false);
                }
                Ok(n) => {
                    filled += n;
                    self.watch.note_progress();
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::io(&self.path, source)),
            }
        }
        Ok(true)
    }

    /// Everything the child writes, up to a limit.
    pub(super) fn read_to_end(&mut self, max_bytes: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let read = self.stdout.by_ref().take(max_bytes + 1).read_to_end(&mut bytes);
        read.map_err(|source| Error::io(&self.path, source))?;
        self.stopped()?;
        if bytes.len() as u64 > max_bytes {
            return Err(self.limit(format!("gave more than {max_bytes} bytes")));
        }
        Ok(bytes)
    }

    /// An error if the watchdog or the person ended the child.
    fn stopped(&self) -> Result<(), Error> {
        if self.cancel.is_set() {
            return Err(Error::Cancelled { path: self.path.clone() });
        }
        match self.watch.reason.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            Some(what) => Err(Error::Limit { path: self.path.clone(), what }),
            None => Ok(()),
        }
    }

    /// Ends the child; what it told of its file.
    ///
    /// # Errors
    /// [`Error::Killed`] if somebody else ended it.
    pub(super) fn finish(self) -> Result<Told, Error> {
        // ffmpeg has closed its output or is no longer wanted; a healthy one is gone within a moment.
        let patience = Instant::now() + PATIENCE;
        let status = loop {
            let state = self.process.lock().unwrap_or_else(PoisonError::into_inner).ended();
            match state {
                Ok(Some(status)) => break Some(status),
                Ok(None) if Instant::now() < patience => std::thread::sleep(Duration::from_micros(500)),
                _ => break None,
            }
        };
        if status.is_none() {
            kill(&self.process);
        }
        self.stopped()?;
        let talk = self.talk.recv_timeout(PATIENCE).unwrap_or_default();
        if let Some(status) = status.filter(|status| ended_from_outside(status, &talk)) {
            return Err(Error::Killed { path: self.path.clone(), status: status.to_string() });
        }
        let mut complaints = talk.complaints.join("; ");
        if talk.more > 0 {
            complaints.push_str(&format!("; and {} more complaints", talk.more));
        }
        if let Some(status) = status.filter(|s| !s.success()) {
            // 126 and 127 are a shell's: what ought to have run did not.
            if complaints.is_empty() || matches!(status.code(), Some(126 | 127)) {
                complaints = format!("ffmpeg ended with {status} {complaints}").trim_end().to_owned();
            }
        }
        Ok(Told {
            duration_ms: self.announced_ms(),
            complaints: (!complaints.is_empty()).then_some(complaints),
            format: talk.format,
            first_s: talk.first_s,
        })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        kill(&self.process);
    }
}

/// Whether a signal that asks for the end stopped it, and not a fault of its own. A shell around it tells of the signal as 128 and
/// its number; ffmpeg answers a polite one with words, and 255 (which some versions give for faults too).
fn ended_from_outside(status: &ExitStatus, talk: &Talk) -> bool {
    let by_words = talk.asked_to_end && !status.success();
    #[cfg(unix)]
    {
        use rustix::process::Signal;
        let asked = [Signal::HUP, Signal::INT, Signal::KILL, Signal::TERM].map(Signal::as_raw);
        let signal = std::os::unix::process::ExitStatusExt::signal(status);
        let told = status.code().map(|code| code - 128);
        by_words || signal.or(told).is_some_and(|s| asked.contains(&s))
    }
    #[cfg(not(unix))]
    by_words
}

/// The process, and whether its end was taken note of: from then on its number may be another's.
#[derive(Debug)]
struct Process {
    child: std::process::Child,
    reaped: bool,
}

impl Process {
    fn ended(&mut self) -> std::io::Result<Option<ExitStatus>> {
        let status = self.child.try_wait()?;
        self.reaped |= status.is_some();
        Ok(status)
    }

    /// Ends the process and all of its group.
    fn kill(&mut self) {
        if self.reaped {
            return;
        }
        #[cfg(unix)]
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        // These fail only if the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.reaped = true;
    }
}

fn kill(process: &Mutex<Process>) {
    process.lock().unwrap_or_else(PoisonError::into_inner).kill();
}

/// Ends a child that stalls, takes too long, or is not wanted any more.
fn guard(process: &Mutex<Process>, watch: &Watch, limits: &Limits, cancel: &Cancel, ended: &mpsc::Receiver<()>) {
    loop {
        match ended.recv_timeout(WATCH_EVERY) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => return,
        }
        let elapsed = watch.started.elapsed();
        let idle = elapsed.saturating_sub(Duration::from_millis(watch.progress_ms.load(Ordering::Relaxed)));
        let reason = if cancel.is_set() {
            "was cancelled".to_owned()
        } else if elapsed > limits.wall {
            format!("took longer than {} s", limits.wall.as_secs())
        } else if idle > limits.stall {
            format!("gave no frame for {} s", limits.stall.as_secs())
        } else {
            continue;
        };
        *watch.reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
        kill(process);
        return;
    }
}

/// Bounds the child's address space; where the system has no such call, ffmpeg's own limits remain.
fn limit_memory(process: &std::process::Child, bytes: u64) {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Pid, Resource, Rlimit, prlimit};
        let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
        if let Some(pid) = i32::try_from(process.id()).ok().and_then(Pid::from_raw) {
            // Refused only for a process that has ended already.
            let _ = prlimit(Some(pid), Resource::As, limit);
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (process, bytes);
}

/// Lets others go first: a person waits for a search, nobody for a whole folder of previews.
fn step_back(process: &std::process::Child) {
    #[cfg(unix)]
    if let Some(pid) = i32::try_from(process.id()).ok().and_then(rustix::process::Pid::from_raw) {
        // Refused only for a process that has ended already.
        let _ = rustix::process::setpriority_process(Some(pid), BACKGROUND);
    }
    #[cfg(not(unix))]
    let _ = process;
}

/// Reads all of ffmpeg's talk, keeps the container's length and the first complaints.
fn listen(stderr: impl Read, path: &str, announced_ms: &OnceLock<u64>) -> Talk {
    let mut talk = Talk::default();
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return talk,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim();
        if let Some(duration) = text.split_once("Duration: ").and_then(|(_, rest)| clock_ms(rest)) {
            announced_ms.get_or_init(|| duration);
        }
        if let Some((_, rest)) = text.split_once("Input #0, ") {
            let format = rest.split_once(", from").map_or(rest, |(format, _)| format);
            talk.format.get_or_insert_with(|| format.to_owned());
        }
        if talk.first_s.is_none() && text.contains("showinfo") {
            let time = text.split_once("pts_time:").and_then(|(_, rest)| rest.split_whitespace().next());
            talk.first_s = time.and_then(|time| time.parse().ok()).filter(|time: &f64| time.is_finite());
        }
        talk.asked_to_end |= text.contains("received signal");
        if let Some(complaint) = complaint(text, path) {
            if talk.complaints.contains(&complaint) {
                continue;
            }
            if talk.complaints.len() < MAX_COMPLAINTS {
                talk.complaints.push(complaint);
            } else {
                talk.more += 1;
            }
        }
    }
}

/// `00:01:02.34, start: …` in milliseconds.
fn clock_ms(text: &str) -> Option<u64> {
    let clock = text.split([',', ' ']).next()?;
    let mut parts = clock.split(':');
    let (hours, minutes, seconds) = (parts.next()?, parts.next()?, parts.next()?);
    let whole =
        hours.parse::<u64>().ok()?.checked_mul(3600)?.checked_add(minutes.parse::<u64>().ok()?.checked_mul(60)?)?;
    let seconds: f64 = seconds.parse().ok().filter(|s| (0.0..61.0).contains(s))?;
    whole.checked_mul(1000)?.checked_add((seconds * 1000.0).round() as u64)
}

/// The message of a line at level error or worse, without addresses and without the file's own name.
fn complaint(line: &str, path: &str) -> Option<String> {
    let at =
        ["[error] ", "[fatal] ", "[panic] "].iter().filter_map(|level| Some((line.find(level)?, level.len()))).min()?;
    let message = line[at.0 + at.1..].trim();
    let message = message.strip_prefix(&format!("file:{path}: ")).unwrap_or(message).trim();
    // The size may change midway: we asked for it to be followed.
    if message.is_empty()
        || message.starts_with("Changing video frame properties on the fly")
        || message.starts_with("Conversion failed")
        || message.starts_with("Error while filtering")
    {
        return None;
    }
    let message =
        if message.starts_with("Stream map '0:V:0' matches no streams") { "it has no video stream" } else { message };
    Some(message.trim_end_matches('.').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_length_and_complaints_from_talk() {
        let announced = OnceLock::new();
        let talk = listen(
            &b"[info]   Duration: 00:01:02.34, start: 0.00\n[mov @ 0x55] [error] moov atom not found\n[error] file:/a b.mp4: Invalid data\n[info] fine\n"[..],
            "/a b.mp4",
            &announced,
        );
        assert_eq!(announced.get(), Some(&62_340));
        assert_eq!(talk.complaints, ["moov atom not found", "Invalid data"]);
    }

    #[test]
    fn reads_the_format_and_the_first_time_from_talk() {
        let talk = listen(
            &b"[info] Input #0, mov,mp4,m4a,3gp,3g2,mj2, from 'file:/a, from b.mp4':\n[Parsed_showinfo_0 @ 0x5] [info] config in time_base: 1/90000\n[Parsed_showinfo_0 @ 0x5] [info] n:   0 pts: 133200 pts_time:1.48    duration: 3600\n[Parsed_showinfo_0 @ 0x5] [info] n:   1 pts: 136800 pts_time:1.52\n"[..],
            "/a, from b.mp4",
            &OnceLock::new(),
        );
        assert_eq!((talk.format.as_deref(), talk.first_s), (Some("mov,mp4,m4a,3gp,3g2,mj2"), Some(1.48)));
        assert_eq!(listen(&b"[showinfo] pts_time:NOPTS \n"[..], "p", &OnceLock::new()).first_s, None);
    }

    #[test]
    fn endless_talk_takes_bounded_memory() {
        let talk = listen(std::io::repeat(b'x').take(1 << 22), "p", &OnceLock::new());
        assert!(talk.complaints.is_empty());
        let many: String = (0..5000).map(|i| format!("[error] fault {i}\n")).collect();
        let talk = listen(many.as_bytes(), "p", &OnceLock::new());
        assert_eq!((talk.complaints.len(), talk.more), (MAX_COMPLAINTS, 5000 - MAX_COMPLAINTS));
    }

    #[test]
    fn no_clock_no_length() {
        assert_eq!(clock_ms("N/A, start"), None);
        assert_eq!(clock_ms("99999999999999999999:00:00"), None);
    }
}
