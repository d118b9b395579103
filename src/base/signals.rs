//! The signals that ask the process to stop.

use rustix::process::Signal;

/// SIGINT, SIGTERM and SIGHUP, without those that the process ignores at its start: `nohup` ignores SIGHUP,
/// and shells without job control ignore SIGINT for processes in the background. Only Linux reports what is
/// ignored. Elsewhere SIGHUP is left out too, so that it keeps its effect, which is to end or not to end the
/// process.
pub(crate) fn stop_signals() -> Vec<i32> {
    let status = std::fs::read_to_string("/proc/self/status").ok();
    let ignored = status.as_deref().and_then(ignored_mask);
    let is_taken = |signal: &Signal| match ignored {
        Some(mask) => mask >> (signal.as_raw() - 1) & 1 == 0,
        None => *signal != Signal::HUP,
    };
    [Signal::INT, Signal::TERM, Signal::HUP].iter().filter(|signal| is_taken(signal)).map(|s| s.as_raw()).collect()
}

/// The ignored signals in `/proc/self/status`, one bit for each.
fn ignored_mask(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_is_read_from_the_status_of_the_process() {
        assert_eq!(ignored_mask("SigBlk:\t0000000000000000\nSigIgn:\t0000000000001003\n"), Some(0x1003));
        assert_eq!(ignored_mask("SigIgn:\tx\n"), None);
        assert_eq!(ignored_mask(""), None);
    }
}
