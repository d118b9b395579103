//! A decoder that cannot be stopped runs on a separate thread, so that a cancellation frees the caller.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::job::DecodeFault;
use crate::base::Cancel;

/// Pixels from which a decoder gets a thread. Fewer are decoded in a tenth of a second.
pub(super) const MIN_PIXELS: u64 = 8_000_000;
/// Interval between two checks of the flag.
const CHECK: Duration = Duration::from_millis(10);
/// Stack of a thread: as large as that of a main thread.
const STACK_BYTES: usize = 8 << 20;
/// Number of abandoned decodings at which no new decoding starts here. An abandoned decoding runs for up to a
/// second and holds the memory of a picture. Workers that give up at the same time can exceed this number.
const MAX_GIVEN_UP: usize = 2;

/// Number of abandoned decodings that still run.
static GIVEN_UP: Mutex<usize> = Mutex::new(0);
/// Notified when an abandoned decoding has ended.
static ENDED: Condvar = Condvar::new();

fn given_up() -> MutexGuard<'static, usize> {
    GIVEN_UP.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits while too many abandoned decodings run.
fn wait_for_room(cancel: &Cancel) -> Result<(), DecodeFault> {
    let mut count = given_up();
    while *count >= MAX_GIVEN_UP {
        if cancel.is_set() {
            return Err(DecodeFault::Cancelled);
        }
        count = ENDED.wait_timeout(count, CHECK).unwrap_or_else(PoisonError::into_inner).0;
    }
    Ok(())
}

/// Runs `work` on another thread. Returns its result, or soon after the cancellation.
pub(super) fn run<T: Send + 'static>(
    cancel: &Cancel,
    work: impl FnOnce() -> Result<T, DecodeFault> + Send + 'static,
) -> Result<T, DecodeFault> {
    wait_for_room(cancel)?;
    let (send, receive) = sync_channel(1);
    let thread = move || {
        let result = catch_unwind(AssertUnwindSafe(work));
        // The receiver is dropped with the count locked, so that each decoding counts until it has ended.
        let mut count = given_up();
        if send.send(result).is_err() {
            *count -= 1;
            ENDED.notify_all();
        }
    };
    let builder = std::thread::Builder::new().name("decoder".to_owned()).stack_size(STACK_BYTES);
    builder.spawn(thread).map_err(|error| DecodeFault::Damaged(format!("no thread for it: {error}")))?;
    loop {
        match receive.recv_timeout(CHECK) {
            Ok(result) => return result.unwrap_or_else(|payload| resume_unwind(payload)),
            Err(RecvTimeoutError::Timeout) if !cancel.is_set() => {}
            Err(_) => break,
        }
    }
    let mut count = given_up();
    // It may have ended in the meantime.
    if receive.try_recv().is_err() {
        *count += 1;
    }
    drop(receive);
    Err(DecodeFault::Cancelled)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_decoding_that_is_given_up_counts_until_it_ends() {
        let cancel = Cancel::default();
        assert_eq!(run(&cancel, || Ok(7)).ok(), Some(7));
        assert!(matches!(run::<()>(&cancel, || Err(DecodeFault::Cancelled)), Err(DecodeFault::Cancelled)));
        let panic = AssertUnwindSafe(|| run::<()>(&cancel, || resume_unwind(Box::new(3))));
        assert!(catch_unwind(panic).unwrap_err().is::<i32>());
        let (end, wait) = channel::<()>();
        let flag = cancel.clone();
        let endless = move || {
            flag.set();
            Ok(wait.recv().is_ok())
        };
        assert!(matches!(run(&cancel, endless), Err(DecodeFault::Cancelled)));
        assert_eq!(*given_up(), 1);
        end.send(()).unwrap();
        let mut count = given_up();
        while *count > 0 {
            count = ENDED.wait(count).unwrap();
        }
    }
}
