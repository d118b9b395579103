//! The process group of a child, and the guard that ends the group.

use std::time::Duration;
#[cfg(unix)]
use std::{
    process::{Child, Command, Stdio},
    time::Instant,
};

/// Waits until its standard input closes, or `$1` seconds where there is `timeout`. Then ends its process
/// group.
#[cfg(unix)]
const SCRIPT: &str = "\
if command -v timeout; then timeout -s KILL \"$1\" cat; else cat; fi
kill -s KILL 0";

/// The shell that runs the guard.
pub(super) const SHELL: &str = "/bin/sh";

/// Longest wait for a guard whose input is closed.
#[cfg(unix)]
const PATIENCE: Duration = Duration::from_secs(2);

/// A process group with a shell as its leader. The shell waits for the end of a pipe from this process. The
/// system closes the pipe when this process ends, for whatever cause. Then the shell kills the group: ffmpeg,
/// the processes that a wrapper script has started, and itself. It also ends the group when its time is over,
/// even if this process hangs. Outside of Unix there is no guard.
#[derive(Debug)]
pub(super) struct Guard {
    #[cfg(unix)]
    shell: Child,
}

#[cfg(unix)]
impl Guard {
    /// Starts a group that ends after `wall` at the latest.
    pub(super) fn start(wall: Duration) -> std::io::Result<Guard> {
        let mut command = Command::new(SHELL);
        command.args(["-c", SCRIPT, "reelseek-guard", &wall.as_secs().to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // Ctrl-C must reach this process only, which then ends the group.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        Ok(Guard { shell: command.spawn()? })
    }

    /// Makes a command a member of the group.
    pub(super) fn admit(&self, command: &mut Command) {
        if let Ok(group) = i32::try_from(self.shell.id()) {
            std::os::unix::process::CommandExt::process_group(command, group);
        }
    }

    /// Kills the group.
    pub(super) fn kill(&mut self) {
        // The shell first reaps its own children. If this process is the first of a container, no other
        // would.
        drop(self.shell.stdin.take());
        let deadline = Instant::now() + PATIENCE;
        while self.shell.try_wait().is_ok_and(|status| status.is_none()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(500));
        }
        if !self.shell.try_wait().is_ok_and(|status| status.is_some()) {
            // The leader is not reaped yet, so the number of the group still belongs to it.
            if let Some(group) = i32::try_from(self.shell.id()).ok().and_then(rustix::process::Pid::from_raw) {
                // Fails only if all members have ended.
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
            let _ = self.shell.wait();
        }
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    fn member(guard: &Guard) -> Child {
        let mut command = Command::new("sleep");
        guard.admit(command.arg("600"));
        command.spawn().unwrap()
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_group_ends_after_its_time() {
        let start = Instant::now();
        let mut guard = Guard::start(Duration::from_secs(1)).unwrap();
        assert!(!member(&guard).wait().unwrap().success());
        assert!(start.elapsed() >= Duration::from_secs(1));
        guard.kill();
    }

    #[test]
    fn the_group_ends_with_its_pipe() {
        // The end of this process closes the pipe too.
        let mut guard = Guard::start(Duration::from_secs(600)).unwrap();
        let mut member = member(&guard);
        assert!(member.try_wait().unwrap().is_none());
        drop(guard.shell.stdin.take());
        assert!(!member.wait().unwrap().success());
        guard.kill();
        // A guard that does not react is killed.
        let mut guard = Guard::start(Duration::from_secs(600)).unwrap();
        let mut member = self::member(&guard);
        let shell = rustix::process::Pid::from_raw(guard.shell.id() as i32).unwrap();
        rustix::process::kill_process(shell, rustix::process::Signal::STOP).unwrap();
        guard.kill();
        assert!(!member.wait().unwrap().success());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_guard_leaves_no_process_to_reap() {
        // As the first process of a container does, this process inherits all orphans.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        let children = || {
            let lists = std::fs::read_dir("/proc/self/task").unwrap().flatten();
            let lists = lists.map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
            lists.collect::<String>()
        };
        for wait in [0, 200] {
            let mut guard = Guard::start(Duration::from_secs(600)).unwrap();
            std::thread::sleep(Duration::from_millis(wait));
            guard.kill();
            assert_eq!(children(), "");
        }
    }
}

#[cfg(not(unix))]
impl Guard {
    pub(super) fn start(_: Duration) -> std::io::Result<Guard> {
        Ok(Guard {})
    }

    pub(super) fn admit(&self, _: &mut std::process::Command) {}

    pub(super) fn kill(&mut self) {}
}
