//! The memory budget of request bodies and fetched pictures.
//! They share one budget. A part of it is reserved for small bodies, so that an ordinary search finds room
//! while large bodies are uploaded. When the budget is exhausted, the arriving body with the highest product
//! of size and idle time is aborted.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::serve::error::ApiError;
use crate::serve::limits::{BODY_BUDGET_BYTES, LARGE_BODIES_BYTES, PROGRESS_BYTES, SMALL_BODY_BYTES};

/// The budget, shared by all requests.
#[derive(Default)]
pub(crate) struct BodyBudget(Mutex<Ledger>);

#[derive(Default)]
struct Ledger {
    next_id: u64,
    total: usize,
    large: usize,
    entries: HashMap<u64, LedgerEntry>,
}

struct LedgerEntry {
    bytes: usize,
    /// Time of the last progress.
    since: Instant,
    /// Bytes since the last progress.
    unmarked: usize,
    /// Aborts the body while it is still arriving.
    abort: Option<Arc<Notify>>,
}

impl LedgerEntry {
    fn is_large(&self) -> bool {
        self.bytes > SMALL_BODY_BYTES
    }

    /// Byte-seconds without progress.
    fn idle_cost(&self, now: Instant) -> f64 {
        self.bytes as f64 * now.saturating_duration_since(self.since).max(Duration::from_micros(1)).as_secs_f64()
    }
}

impl Ledger {
    fn insert(&mut self, id: u64, entry: LedgerEntry) {
        self.total += entry.bytes;
        self.large += if entry.is_large() { entry.bytes } else { 0 };
        self.entries.insert(id, entry);
    }

    fn remove(&mut self, id: u64) -> Option<LedgerEntry> {
        let entry = self.entries.remove(&id)?;
        self.total -= entry.bytes;
        self.large -= if entry.is_large() { entry.bytes } else { 0 };
        Some(entry)
    }

    /// The body to abort: the arriving one with the highest idle cost. If only the large bodies exceed their
    /// part of the budget, it is a large one.
    fn victim(&self, now: Instant) -> Option<u64> {
        let any = self.total > BODY_BUDGET_BYTES;
        let arriving = self.entries.iter().filter(|(_, e)| e.abort.is_some() && (any || e.is_large()));
        arriving.max_by(|(_, a), (_, b)| a.idle_cost(now).total_cmp(&b.idle_cost(now))).map(|(id, _)| *id)
    }
}

#[cfg(test)]
impl BodyBudget {
    /// Bytes reserved now.
    pub(crate) fn reserved(&self) -> usize {
        self.0.lock().total
    }
}

/// A share of the budget, returned on drop. It starts with 0 bytes.
pub(crate) struct Reservation {
    budget: Arc<BodyBudget>,
    id: u64,
    abort: Arc<Notify>,
}

impl Reservation {
    /// For a body that arrives at its sender's pace: it may be aborted until [`Reservation::complete`].
    pub(crate) fn abortable(budget: &Arc<BodyBudget>) -> Reservation {
        Reservation::new(budget, true)
    }

    /// For data with its own short deadline: it is never aborted.
    pub(crate) fn fixed(budget: &Arc<BodyBudget>) -> Reservation {
        Reservation::new(budget, false)
    }

    fn new(budget: &Arc<BodyBudget>, abortable: bool) -> Reservation {
        let abort = Arc::<Notify>::default();
        let mut ledger = budget.0.lock();
        let id = ledger.next_id;
        ledger.next_id += 1;
        let entry =
            LedgerEntry { bytes: 0, since: Instant::now(), unmarked: 0, abort: abortable.then(|| abort.clone()) };
        ledger.insert(id, entry);
        drop(ledger);
        Reservation { budget: budget.clone(), id, abort }
    }

    /// Reserves more bytes.
    ///
    /// # Errors
    /// 429 if the budget is exhausted, or this reservation was aborted.
    pub(crate) fn grow(&self, bytes: usize) -> Result<(), ApiError> {
        let mut ledger = self.budget.0.lock();
        let Some(mut own) = ledger.remove(self.id) else { return Err(exhausted()) };
        let now = Instant::now();
        own.bytes += bytes;
        own.unmarked += bytes;
        if own.unmarked >= PROGRESS_BYTES {
            (own.since, own.unmarked) = (now, 0);
        }
        ledger.insert(self.id, own);
        while ledger.total > BODY_BUDGET_BYTES || ledger.large > LARGE_BODIES_BYTES {
            let victim = ledger.victim(now).unwrap_or(self.id);
            if let Some(LedgerEntry { abort: Some(abort), .. }) = ledger.remove(victim) {
                abort.notify_one();
            }
            if victim == self.id {
                return Err(exhausted());
            }
        }
        Ok(())
    }

    /// Waits until the reservation is aborted; returns the response's error.
    pub(crate) async fn aborted(&self) -> ApiError {
        self.abort.notified().await;
        exhausted()
    }

    /// Marks the body as complete, so that it is no longer aborted.
    pub(crate) fn complete(&self) {
        if let Some(own) = self.budget.0.lock().entries.get_mut(&self.id) {
            own.abort = None;
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.0.lock().remove(self.id);
    }
}

fn exhausted() -> ApiError {
    ApiError::busy("too many large requests at once: try again in a moment")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::limits::MAX_BODY_BYTES;

    fn is_aborted(body: &Reservation) -> bool {
        body.grow(0).is_err()
    }

    #[test]
    fn large_bodies_leave_room_for_small_ones() {
        let budget = Arc::<BodyBudget>::default();
        let large: Vec<Reservation> = (0..10).map(|_| Reservation::abortable(&budget)).collect();
        large.iter().for_each(|body| {
            let _ = body.grow(MAX_BODY_BYTES);
        });
        assert_eq!(large.iter().filter(|body| !is_aborted(body)).count(), LARGE_BODIES_BYTES / MAX_BODY_BYTES);
        let small: Vec<Reservation> = (0..40).map(|_| Reservation::abortable(&budget)).collect();
        assert!(small.iter().all(|body| body.grow(SMALL_BODY_BYTES).is_ok()));
        drop((large, small));
        assert_eq!(budget.reserved(), 0);
    }

    #[test]
    fn aborts_the_largest_of_the_bodies_idle_longest() {
        let budget = Arc::<BodyBudget>::default();
        let many: Vec<Reservation> =
            (0..BODY_BUDGET_BYTES / SMALL_BODY_BYTES).map(|_| Reservation::abortable(&budget)).collect();
        assert!(many.iter().all(|body| body.grow(SMALL_BODY_BYTES - 10).is_ok()));
        std::thread::sleep(Duration::from_millis(100));
        // `many[0]` makes progress. The single byte of `many[1]` does not count as progress.
        many[1].grow(1).unwrap();
        many[0].grow(PROGRESS_BYTES).unwrap();
        assert!(is_aborted(&many[1]) && !is_aborted(&many[0]));
        let late = Reservation::abortable(&budget);
        for _ in 0..10 {
            assert!(late.grow(300_000).is_ok(), "a large body that arrives last finds room while it makes progress");
        }
        assert_eq!(many.iter().filter(|body| is_aborted(body)).count(), 4);
        assert!(!is_aborted(&late) && !is_aborted(&many[0]));
    }

    #[test]
    fn never_aborts_complete_bodies_and_refuses_what_exceeds_the_budget() {
        let budget = Arc::<BodyBudget>::default();
        let complete: Vec<Reservation> = (0..8).map(|_| Reservation::abortable(&budget)).collect();
        for body in &complete {
            body.grow(MAX_BODY_BYTES).unwrap();
            body.complete();
        }
        let (fetched, small) = (Reservation::fixed(&budget), Reservation::abortable(&budget));
        assert!(fetched.grow(SMALL_BODY_BYTES + 1).is_err(), "large bodies have used up their part");
        small.grow(SMALL_BODY_BYTES).unwrap();
        assert!(complete.iter().all(|body| !is_aborted(body)));
        drop(complete);
        drop(fetched);
        let again = Reservation::fixed(&budget);
        again.grow(MAX_BODY_BYTES).unwrap();
        assert_eq!(budget.reserved(), MAX_BODY_BYTES + SMALL_BODY_BYTES);
    }
}
