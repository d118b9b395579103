//! The child process: its pipes, its limits, its watchdog and its end.
//!
//! The child ends together with this process (see [`Guard`]). Its limits hold without this process too: the
//! system limits memory and processor time, and the guard limits the wall time.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::Limits;
use super::guard::{Guard, SHELL};
use crate::base::Cancel;
use crate::media::Error;

/// Interval at which the watchdog checks the child.
const WATCH_EVERY: Duration = Duration::from_millis(50);
/// Error messages kept per file, and bytes kept per message.
const MAX_ERRORS: usize = 3;
const MAX_LINE_BYTES: u64 = 4096;
/// Printed numbers kept per file.
const MAX_PRINTED: usize = 1 << 20;

/// Niceness of a background child.
#[cfg(unix)]
const BACKGROUND: i32 = 10;

/// Longest wait for the exit of a child that has closed its output, and for the end of its log.
const PATIENCE: Duration = Duration::from_secs(5);

/// Time that the watchdog has to report a limit before the guard ends the child.
const GUARD_DELAY: Duration = Duration::from_secs(2);

/// Processor time that a child may use for each second of wall time: a decoder and an encoder can run at
/// once.
#[cfg(target_os = "linux")]
const MAX_PROCESSORS: u64 = 2;

/// A running ffmpeg. Dropping it kills and reaps the process, together with every process that it started.
#[derive(Debug)]
pub(super) struct Child {
    path: PathBuf,
    process: Arc<Mutex<Process>>,
    stdout: ChildStdout,
    log: mpsc::Receiver<FfmpegLog>,
    progress: Arc<ChildProgress>,
    /// Dropping it ends the watchdog at once.
    _watchdog: mpsc::Sender<()>,
    cancel: Cancel,
}

/// State shared by the reader and the watchdog.
#[derive(Debug)]
struct ChildProgress {
    started: Instant,
    /// While this process waits for output: time since which it has received nothing, in milliseconds after
    /// `started`. Else [`NOT_WAITING`].
    last_ms: AtomicU64,
    /// Why the watchdog ended the child.
    reason: Mutex<Option<String>>,
    /// The container's length, as soon as ffmpeg has printed it.
    announced_ms: OnceLock<u64>,
}

/// See [`ChildProgress::last_ms`].
const NOT_WAITING: u64 = u64::MAX;

impl ChildProgress {
    fn new() -> ChildProgress {
        ChildProgress {
            started: Instant::now(),
            last_ms: AtomicU64::new(NOT_WAITING),
            reason: Mutex::new(None),
            announced_ms: OnceLock::new(),
        }
    }

    /// Records that this process now waits for the next byte.
    fn wait(&self) {
        self.last_ms.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Records that this process waits for no byte: a child whose output nobody reads cannot go on.
    fn pause(&self) {
        self.last_ms.store(NOT_WAITING, Ordering::Relaxed);
    }

    /// How long this process has waited for the next byte.
    fn idle(&self) -> Duration {
        let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(last)
    }
}

/// The parsed standard error of ffmpeg.
#[derive(Debug, Default)]
struct FfmpegLog {
    errors: Vec<String>,
    /// Number of errors beyond [`MAX_ERRORS`].
    more: usize,
    /// Whether ffmpeg reports that a signal ended it.
    received_signal: bool,
    format: Option<String>,
    first_s: Option<f64>,
    /// Numbers that an expression of a filter has printed.
    printed: Vec<f64>,
}

/// Facts about a file after its child has ended.
#[derive(Debug, Default)]
pub(super) struct ChildReport {
    /// The container's length in milliseconds.
    pub(super) duration_ms: Option<u64>,
    /// ffmpeg's error messages.
    pub(super) errors: Option<String>,
    /// The names of the container format, separated by commas.
    pub(super) format: Option<String>,
    /// Timestamp of the first frame that passed the filter `showinfo`, in seconds.
    pub(super) first_s: Option<f64>,
    /// Numbers that an expression of a filter has printed.
    pub(super) printed: Vec<f64>,
}

impl Child {
    pub(super) fn start(mut command: Command, path: &Path, limits: &Limits, cancel: &Cancel) -> Result<Child, Error> {
        let program = PathBuf::from(command.get_program());
        // Messages name these files. Their folders are removed there.
        let files: Vec<PathBuf> =
            command.get_args().filter_map(|arg| arg.to_str()?.strip_prefix("file:").map(PathBuf::from)).collect();
        let missing = |program| move |e: std::io::Error| Error::NoFfmpeg { program, reason: e.to_string() };
        let mut guard = Guard::start(limits.wall.saturating_add(GUARD_DELAY)).map_err(missing(SHELL.into()))?;
        guard.admit(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().inspect_err(|_| guard.kill()).map_err(missing(program.clone()))?;
        limit_resources(&process, limits);
        if limits.background {
            lower_priority(&process);
        }
        let stdout = process.stdout.take().expect("standard output is piped");
        let stderr = process.stderr.take().expect("standard error is piped");
        let progress = Arc::new(ChildProgress::new());
        let (sender, log) = mpsc::channel();
        let process = Arc::new(Mutex::new(Process { child: process, guard, killed: false }));
        let (watchdog, ended) = mpsc::channel();
        let (path, shared, limits, stop) = (path.to_owned(), progress.clone(), limits.clone(), cancel.clone());
        // From here on, an error drops the child, which kills the process.
        let child =
            Child { path, process: process.clone(), stdout, log, progress, _watchdog: watchdog, cancel: stop.clone() };
        let announced = shared.clone();
        let read = move || {
            // Fails only if the child was dropped.
            let _ = sender.send(read_log(stderr, &files, &announced.announced_ms));
        };
        std::thread::Builder::new().spawn(read).map_err(missing(program.clone()))?;
        let watch = move || watch(&process, &shared, &limits, &stop, &ended);
        std::thread::Builder::new().spawn(watch).map_err(missing(program))?;
        Ok(child)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The container's length in milliseconds, if ffmpeg has printed it.
    pub(super) fn announced_ms(&self) -> Option<u64> {
        self.progress.announced_ms.get().copied()
    }

    /// Ends the child and returns an [`Error::Limit`] with this reason.
    pub(super) fn limit(&mut self, reason: String) -> Error {
        kill(&self.process);
        Error::Limit { path: self.path.clone(), reason }
    }

    /// Fills the buffer. Returns `false` at the end of the output, also if the last picture is incomplete.
    pub(super) fn read_exact(&mut self, buffer: &mut [u8]) -> Result<bool, Error> {
        self.progress.wait();
        let filled = self.fill(buffer);
        self.progress.pause();
        filled
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<bool, Error> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.stdout.read(&mut buffer[filled..]) {
                Ok(0) => {
                    self.stopped()?;
                    return Ok(false);
                }
                Ok(n) => {
                    filled += n;
                    self.progress.wait();
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(reason) => return Err(Error::io(&self.path, reason)),
            }
        }
        Ok(true)
    }

    /// Reads the child's whole output, up to a limit.
    pub(super) fn read_to_end(&mut self, max_bytes: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.progress.wait();
        let read = self.stdout.by_ref().take(max_bytes + 1).read_to_end(&mut bytes);
        read.map_err(|reason| Error::io(&self.path, reason))?;
        self.stopped()?;
        if bytes.len() as u64 > max_bytes {
            return Err(self.limit(format!("returned more than {max_bytes} bytes")));
        }
        Ok(bytes)
    }

    /// An error if the watchdog or a cancellation ended the child.
    fn stopped(&self) -> Result<(), Error> {
        if self.cancel.is_set() {
            return Err(Error::Cancelled { path: self.path.clone() });
        }
        match self.progress.reason.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            Some(reason) => Err(Error::Limit { path: self.path.clone(), reason }),
            None => Ok(()),
        }
    }

    /// Ends the child and returns its report.
    ///
    /// # Errors
    /// [`Error::Killed`] if another process ended it, [`Error::Limit`], [`Error::Cancelled`].
    pub(super) fn finish(self) -> Result<ChildReport, Error> {
        // ffmpeg has closed its output or is no longer needed. A healthy one exits at once.
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            let state = self.process.lock().unwrap_or_else(PoisonError::into_inner).ended();
            match state {
                Ok(Some(status)) => break Some(status),
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_micros(500)),
                _ => break None,
            }
        };
        if status.is_none() {
            kill(&self.process);
        }
        self.stopped()?;
        let log = self.log.recv_timeout(PATIENCE).unwrap_or_default();
        if let Some(status) = status.filter(|status| ended_from_outside(status, &log)) {
            return Err(Error::Killed { path: self.path.clone(), status: status.to_string() });
        }
        let mut errors = log.errors.join("; ");
        if log.more > 0 {
            errors.push_str(&format!("; and {} more errors", log.more));
        }
        if let Some(status) = status.filter(|s| !s.success()) {
            // A shell exits with 126 or 127 if it could not run its command.
            if errors.is_empty() || matches!(status.code(), Some(126 | 127)) {
                errors = format!("ffmpeg ended with {status} {errors}").trim_end().to_owned();
            }
        }
        Ok(ChildReport {
            duration_ms: self.announced_ms(),
            errors: (!errors.is_empty()).then_some(errors),
            format: log.format,
            first_s: log.first_s,
            printed: log.printed,
        })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        kill(&self.process);
    }
}

/// Whether a signal from another process ended the child. A crash of ffmpeg does not count. A shell around
/// ffmpeg exits with 128 plus the number of the signal. ffmpeg logs a signal that it can handle and exits
/// with 255, which some versions also use for faults.
fn ended_from_outside(status: &ExitStatus, log: &FfmpegLog) -> bool {
    let logged = log.received_signal && !status.success();
    #[cfg(unix)]
    {
        use rustix::process::Signal;
        let ending = [Signal::HUP, Signal::INT, Signal::KILL, Signal::TERM].map(Signal::as_raw);
        let signal = std::os::unix::process::ExitStatusExt::signal(status);
        let from_shell = status.code().map(|code| code - 128);
        logged || signal.or(from_shell).is_some_and(|s| ending.contains(&s))
    }
    #[cfg(not(unix))]
    logged
}

/// The process and its group.
#[derive(Debug)]
struct Process {
    child: std::process::Child,
    guard: Guard,
    killed: bool,
}

impl Process {
    fn ended(&mut self) -> std::io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Kills and reaps the process and its group.
    fn kill(&mut self) {
        if self.killed {
            return;
        }
        // These fail only if the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.guard.kill();
        self.killed = true;
    }
}

fn kill(process: &Mutex<Process>) {
    process.lock().unwrap_or_else(PoisonError::into_inner).kill();
}

/// Kills a child that stalls, takes too long or is cancelled.
fn watch(
    process: &Mutex<Process>,
    progress: &ChildProgress,
    limits: &Limits,
    cancel: &Cancel,
    ended: &mpsc::Receiver<()>,
) {
    loop {
        match ended.recv_timeout(WATCH_EVERY) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => return,
        }
        let reason = if cancel.is_set() {
            "was cancelled".to_owned()
        } else if progress.started.elapsed() > limits.wall {
            format!("took longer than {} s", limits.wall.as_secs())
        } else if progress.idle() > limits.stall {
            format!("returned no frame for {} s", limits.stall.as_secs())
        } else {
            continue;
        };
        *progress.reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
        kill(process);
        return;
    }
}

/// Limits the child's address space and processor time. Where the system has no such call, only ffmpeg's own
/// limits apply. The child runs without limits until this call, for less than a millisecond: code that sets
/// them before `exec` would be unsafe, and a shell between would hide that the program is missing. If this
/// process is killed in between, the guard ends the child.
fn limit_resources(process: &std::process::Child, limits: &Limits) {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Pid, Resource, Rlimit, prlimit};
        let Some(pid) = i32::try_from(process.id()).ok().and_then(Pid::from_raw) else { return };
        let processor_s = limits.wall.as_secs().max(1).saturating_mul(MAX_PROCESSORS);
        let memory = [(Resource::As, limits.memory_bytes), (Resource::Data, limits.data_bytes)];
        for (resource, limit) in memory.into_iter().chain([(Resource::Cpu, processor_s)]) {
            // Fails only for a process that has already ended.
            let _ = prlimit(Some(pid), resource, Rlimit { current: Some(limit), maximum: Some(limit) });
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (process, limits);
}

/// Lowers the child's priority, so that searches are answered before previews are made.
fn lower_priority(process: &std::process::Child) {
    #[cfg(unix)]
    if let Some(pid) = i32::try_from(process.id()).ok().and_then(rustix::process::Pid::from_raw) {
        // Fails only for a process that has already ended.
        let _ = rustix::process::setpriority_process(Some(pid), BACKGROUND);
    }
    #[cfg(not(unix))]
    let _ = process;
}

/// Reads ffmpeg's whole log and keeps the container's length and format and the first errors.
fn read_log(stderr: impl Read, files: &[PathBuf], announced_ms: &OnceLock<u64>) -> FfmpegLog {
    let mut log = FfmpegLog::default();
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return log,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim();
        if let Some(duration) = text.split_once("Duration: ").and_then(|(_, rest)| clock_ms(rest)) {
            announced_ms.get_or_init(|| duration);
        }
        if let Some((_, rest)) = text.split_once("Input #0, ") {
            let format = rest.split_once(", from").map_or(rest, |(format, _)| format);
            log.format.get_or_insert_with(|| format.to_owned());
        }
        if log.first_s.is_none() && text.contains("showinfo") {
            let time = text.split_once("pts_time:").and_then(|(_, rest)| rest.split_whitespace().next());
            log.first_s = time.and_then(|time| time.parse().ok()).filter(|time: &f64| time.is_finite());
        }
        if let Some(number) = printed_number(text).filter(|_| log.printed.len() < MAX_PRINTED) {
            log.printed.push(number);
        }
        log.received_signal |= text.starts_with("[info] Exiting normally, received signal");
        if let Some(error) = error_message(text, files) {
            if log.errors.contains(&error) {
                continue;
            }
            if log.errors.len() < MAX_ERRORS {
                log.errors.push(error);
            } else {
                log.more += 1;
            }
        }
    }
}

/// The number of a line that the function `print` of an expression has written: `[info] 12.500000`.
fn printed_number(line: &str) -> Option<f64> {
    let (_, number) = line.rsplit_once("[info] ")?;
    number.parse().ok().filter(|number: &f64| number.is_finite())
}

/// Parses `00:01:02.34, start: …` into milliseconds.
fn clock_ms(text: &str) -> Option<u64> {
    let clock = text.split([',', ' ']).next()?;
    let mut parts = clock.split(':');
    let (hours, minutes, seconds) = (parts.next()?, parts.next()?, parts.next()?);
    let whole =
        hours.parse::<u64>().ok()?.checked_mul(3600)?.checked_add(minutes.parse::<u64>().ok()?.checked_mul(60)?)?;
    let seconds: f64 = seconds.parse().ok().filter(|s| (0.0..61.0).contains(s))?;
    whole.checked_mul(1000)?.checked_add((seconds * 1000.0).round() as u64)
}

/// The message of a log line at level error or worse, without memory addresses and folders.
fn error_message(line: &str, files: &[PathBuf]) -> Option<String> {
    let at =
        ["[error] ", "[fatal] ", "[panic] "].iter().filter_map(|level| Some((line.find(level)?, level.len()))).min()?;
    let mut message = line[at.0 + at.1..].trim().to_owned();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        message = message.replace(&format!("file:{}", file.display()), &name);
        message = message.strip_prefix(&format!("{name}: ")).map(str::to_owned).unwrap_or(message);
    }
    let message = message.trim();
    // These follow from other errors, or from a size that changes midway, which is supported.
    if message.is_empty()
        || message.starts_with("Changing video frame properties on the fly")
        || message.starts_with("Conversion failed")
        || message.starts_with("Error while filtering")
    {
        return None;
    }
    let message = match message {
        _ if message.starts_with("Stream map '0:V:0' matches no streams") => "it has no video stream",
        // The rest of the message is the whole list of [`super::DEMUXERS`].
        _ if message.starts_with("Format not on whitelist") => "Format not on whitelist",
        _ => message.trim_end_matches('.'),
    };
    Some(message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_length_and_errors_from_the_log() {
        let announced = OnceLock::new();
        let log = read_log(
            concat!(
                "[info]   Duration: 00:01:02.34, start: 0.00\n[mov @ 0x55] [error] moov atom not found\n",
                "[error] file:/x y/a b.mp4: Invalid data\n[info] fine\n",
                "[error] Error opening output file:/x y/out.part.\n",
            )
            .as_bytes(),
            &["/x y/a b.mp4".into(), "/x y/out.part".into()],
            &announced,
        );
        assert_eq!(announced.get(), Some(&62_340));
        assert_eq!(log.errors, ["moov atom not found", "Invalid data", "Error opening output out.part"]);
    }

    #[test]
    fn reads_the_format_and_the_first_timestamp_from_the_log() {
        let log = read_log(
            concat!(
                "[info] Input #0, mov,mp4,m4a,3gp,3g2,mj2, from 'file:/a, from b.mp4':\n",
                "[Parsed_showinfo_0 @ 0x5] [info] config in time_base: 1/90000\n",
                "[Parsed_showinfo_0 @ 0x5] [info] n:   0 pts: 133200 pts_time:1.48    duration: 3600\n",
                "[Parsed_showinfo_0 @ 0x5] [info] n:   1 pts: 136800 pts_time:1.52\n",
            )
            .as_bytes(),
            &[],
            &OnceLock::new(),
        );
        assert_eq!((log.format.as_deref(), log.first_s), (Some("mov,mp4,m4a,3gp,3g2,mj2"), Some(1.48)));
        assert_eq!(read_log(&b"[showinfo] pts_time:NOPTS \n"[..], &[], &OnceLock::new()).first_s, None);
    }

    #[test]
    fn an_endless_log_takes_bounded_memory() {
        let log = read_log(std::io::repeat(b'x').take(1 << 22), &[], &OnceLock::new());
        assert!(log.errors.is_empty());
        let many: String = (0..5000).map(|i| format!("[error] fault {i}\n")).collect();
        let log = read_log(many.as_bytes(), &[], &OnceLock::new());
        assert_eq!((log.errors.len(), log.more), (MAX_ERRORS, 5000 - MAX_ERRORS));
    }

    #[test]
    fn a_child_is_idle_only_while_its_output_is_awaited() {
        let progress = ChildProgress::new();
        let pause = Duration::from_millis(20);
        std::thread::sleep(pause);
        assert_eq!(progress.idle(), Duration::ZERO);
        progress.wait();
        std::thread::sleep(pause);
        assert!(progress.idle() >= pause / 2);
        progress.pause();
        assert_eq!(progress.idle(), Duration::ZERO);
    }

    #[test]
    fn an_invalid_clock_has_no_length() {
        assert_eq!(clock_ms("N/A, start"), None);
        assert_eq!(clock_ms("99999999999999999999:00:00"), None);
    }
}
