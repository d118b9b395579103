//! Memory for what comes from outside: the bodies of requests, and pictures that are fetched.
//!
//! Large ones may take up most of it and never all, so that a usual search finds room whatever else is uploaded. Where there is no room, the body goes that
//! holds the most and has brought nothing for the longest, and not the one that came last: who stands still loses to who goes on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::serve::connection::body::MAX_BYTES;
use crate::serve::error::ApiError;

/// All that is held at once: ten of the largest bodies.
const ALL_BYTES: usize = 10 * MAX_BYTES;
/// What large ones may hold of that: eight of the largest.
const LARGE_BYTES: usize = 8 * MAX_BYTES;
/// More than this is large; most pictures are smaller.
const SMALL_BYTES: usize = 1_000_000;
/// So many bytes are worth a mark: who sends single ones stands still.
const PROGRESS_BYTES: usize = 16_000;

/// What is held now.
#[derive(Default)]
pub(crate) struct Budget(Mutex<Books>);

#[derive(Default)]
struct Books {
    next: u64,
    all: usize,
    large: usize,
    holders: HashMap<u64, Holder>,
}

struct Holder {
    bytes: usize,
    /// When it last brought what is worth a mark.
    since: Instant,
    /// Bytes since then.
    unmarked: usize,
    /// How it is told to give up, as long as it is still coming.
    coming: Option<Arc<Notify>>,
}

impl Holder {
    fn is_large(&self) -> bool {
        self.bytes > SMALL_BYTES
    }

    /// Byte-seconds in which it stood still.
    fn weight(&self, now: Instant) -> f64 {
        self.bytes as f64 * now.saturating_duration_since(self.since).max(Duration::from_micros(1)).as_secs_f64()
    }
}

impl Books {
    fn put(&mut self, number: u64, holder: Holder) {
        self.all += holder.bytes;
        self.large += if holder.is_large() { holder.bytes } else { 0 };
        self.holders.insert(number, holder);
    }

    fn take(&mut self, number: u64) -> Option<Holder> {
        let holder = self.holders.remove(&number)?;
        self.all -= holder.bytes;
        self.large -= if holder.is_large() { holder.bytes } else { 0 };
        Some(holder)
    }

    /// The weightiest of those that are still coming; of the large ones only, if those are too many.
    fn weightiest(&self, now: Instant) -> Option<u64> {
        let all = self.all > ALL_BYTES;
        let coming = self.holders.iter().filter(|(_, h)| h.coming.is_some() && (all || h.is_large()));
        coming.max_by(|(_, a), (_, b)| a.weight(now).total_cmp(&b.weight(now))).map(|(number, _)| *number)
    }
}

impl Budget {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.books().all
    }
}

/// A part of the budget, until dropped.
pub(crate) struct Held {
    budget: Arc<Budget>,
    number: u64,
    cut: Arc<Notify>,
}

impl Held {
    /// For a body that comes at its sender's pace: nothing yet, and it may be cut off.
    pub(crate) fn coming(budget: &Arc<Budget>) -> Held {
        Held::new(budget, true)
    }

    /// For what ends by itself before long: nothing yet, and it is never cut off.
    pub(crate) fn brief(budget: &Arc<Budget>) -> Held {
        Held::new(budget, false)
    }

    fn new(budget: &Arc<Budget>, coming: bool) -> Held {
        let cut = Arc::<Notify>::default();
        let mut books = budget.books();
        let number = books.next;
        books.next += 1;
        let holder = Holder { bytes: 0, since: Instant::now(), unmarked: 0, coming: coming.then(|| cut.clone()) };
        books.put(number, holder);
        drop(books);
        Held { budget: budget.clone(), number, cut }
    }

    /// Takes up so many bytes more.
    ///
    /// # Errors
    /// 429 if there is no room, or it was cut off to make room for others.
    pub(crate) fn more(&self, bytes: usize) -> Result<(), ApiError> {
        let mut books = self.budget.books();
        let Some(mut own) = books.take(self.number) else { return Err(no_room()) };
        let now = Instant::now();
        own.bytes += bytes;
        own.unmarked += bytes;
        if own.unmarked >= PROGRESS_BYTES {
            (own.since, own.unmarked) = (now, 0);
        }
        books.put(self.number, own);
        while books.all > ALL_BYTES || books.large > LARGE_BYTES {
            let gone = books.weightiest(now).unwrap_or(self.number);
            if let Some(Holder { coming: Some(cut), .. }) = books.take(gone) {
                cut.notify_one();
            }
            if gone == self.number {
                return Err(no_room());
            }
        }
        Ok(())
    }

    /// Waits until it is cut off.
    pub(crate) async fn cut(&self) -> ApiError {
        self.cut.notified().await;
        no_room()
    }

    /// All has come: from now on it is not cut off.
    pub(crate) fn whole(&self) {
        if let Some(own) = self.budget.books().holders.get_mut(&self.number) {
            own.coming = None;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.books().take(self.number);
    }
}

fn no_room() -> ApiError {
    ApiError::busy("too many large requests at once: try again in a moment")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_cut(held: &Held) -> bool {
        held.more(0).is_err()
    }

    #[test]
    fn a_small_body_finds_room_whatever_large_ones_are_there() {
        let budget = Arc::<Budget>::default();
        let large: Vec<Held> = (0..10).map(|_| Held::coming(&budget)).collect();
        large.iter().for_each(|held| {
            let _ = held.more(MAX_BYTES);
        });
        assert_eq!(large.iter().filter(|held| !is_cut(held)).count(), LARGE_BYTES / MAX_BYTES);
        let small: Vec<Held> = (0..40).map(|_| Held::coming(&budget)).collect();
        assert!(small.iter().all(|held| held.more(SMALL_BYTES).is_ok()));
        drop((large, small));
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn the_one_that_stands_still_goes_first() {
        let budget = Arc::<Budget>::default();
        let many: Vec<Held> = (0..ALL_BYTES / SMALL_BYTES).map(|_| Held::coming(&budget)).collect();
        assert!(many.iter().all(|held| held.more(SMALL_BYTES - 10).is_ok()));
        std::thread::sleep(Duration::from_millis(100));
        // The first two have held most for longest. One goes on; the other sends a single byte, which is no going on.
        many[1].more(1).unwrap();
        many[0].more(PROGRESS_BYTES).unwrap();
        assert!(is_cut(&many[1]) && !is_cut(&many[0]));
        let late = Held::coming(&budget);
        for _ in 0..10 {
            assert!(late.more(300_000).is_ok(), "a large one that comes last finds room, as long as it comes");
        }
        assert_eq!(many.iter().filter(|held| is_cut(held)).count(), 4);
        assert!(!is_cut(&late) && !is_cut(&many[0]));
    }

    #[test]
    fn what_is_whole_stays_and_what_is_beyond_the_budget_is_refused() {
        let budget = Arc::<Budget>::default();
        let whole: Vec<Held> = (0..8).map(|_| Held::coming(&budget)).collect();
        for held in &whole {
            held.more(MAX_BYTES).unwrap();
            held.whole();
        }
        let (fetched, small) = (Held::brief(&budget), Held::coming(&budget));
        assert!(fetched.more(SMALL_BYTES + 1).is_err(), "no large one more");
        small.more(SMALL_BYTES).unwrap();
        assert!(whole.iter().all(|held| !is_cut(held)));
        drop(whole);
        drop(fetched);
        let again = Held::brief(&budget);
        again.more(MAX_BYTES).unwrap();
        assert_eq!(budget.held(), MAX_BYTES + SMALL_BYTES);
    }
}
