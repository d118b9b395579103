//! Does identical work once: the first request starts it, and later ones wait for the same result. When the
//! last waiter leaves, the work is cancelled, or leaves the queue if it has not started. All work is
//! cancelled when the server stops.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tracing::Instrument;

use crate::base::Cancel;

/// The running work, by key.
#[derive(Debug)]
pub(crate) struct SingleFlight<K, T> {
    flights: Mutex<HashMap<K, Flight<T>>>,
    stopping: Cancel,
}

#[derive(Debug)]
struct Flight<T> {
    result: watch::Receiver<Option<T>>,
    cancel: Cancel,
    /// Aborts the task that awaits the work. `cancel` stops work on another thread.
    task: AbortHandle,
    waiters: usize,
}

impl<K, T> Default for SingleFlight<K, T> {
    fn default() -> SingleFlight<K, T> {
        SingleFlight::new(&Cancel::default())
    }
}

impl<K, T> SingleFlight<K, T> {
    /// No running work. `stopping` cancels all work to come.
    pub(crate) fn new(stopping: &Cancel) -> SingleFlight<K, T> {
        SingleFlight { flights: Mutex::default(), stopping: stopping.clone() }
    }
}

impl<K, T> SingleFlight<K, T>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Starts `work`, or waits for the running work of the same key; returns its result, or `None` if it
    /// panicked.
    pub(crate) async fn join<F>(self: &Arc<Self>, key: &K, work: impl FnOnce(Cancel) -> F) -> Option<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let (mut result, waiter) = {
            let mut flights = self.flights.lock();
            let flight = flights.entry(key.clone()).or_insert_with(|| {
                let (sender, result) = watch::channel(None);
                let cancel = self.stopping.within();
                let entry = FlightEntry { flights: self.clone(), key: key.clone(), sender, cancel: cancel.clone() };
                let work = work(cancel.clone());
                let flight = async move {
                    let outcome = work.await;
                    entry.sender.send_replace(Some(outcome));
                };
                // Errors are logged for the request that started the work.
                let task = tokio::spawn(flight.in_current_span());
                Flight { result, cancel, task: task.abort_handle(), waiters: 0 }
            });
            flight.waiters += 1;
            (flight.result.clone(), Waiter { flights: self.clone(), key: key.clone(), result: flight.result.clone() })
        };
        let outcome = result.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        drop(waiter);
        outcome
    }
}

/// Removes the flight of its key on drop: at the end of the work, or after a panic. Work that goes on after
/// its time is over, on another thread, is cancelled.
struct FlightEntry<K: Eq + Hash, T> {
    flights: Arc<SingleFlight<K, T>>,
    key: K,
    sender: watch::Sender<Option<T>>,
    cancel: Cancel,
}

impl<K: Eq + Hash, T> Drop for FlightEntry<K, T> {
    fn drop(&mut self) {
        self.cancel.set();
        let mut flights = self.flights.flights.lock();
        // After the last waiter has left, the key may belong to newer work.
        if flights.get(&self.key).is_some_and(|flight| flight.result.same_channel(&self.sender.subscribe())) {
            flights.remove(&self.key);
        }
    }
}

/// A request that waits for the result. On drop of the last one, the work is cancelled.
struct Waiter<K: Eq + Hash, T> {
    flights: Arc<SingleFlight<K, T>>,
    key: K,
    result: watch::Receiver<Option<T>>,
}

impl<K: Eq + Hash, T> Drop for Waiter<K, T> {
    fn drop(&mut self) {
        let mut flights = self.flights.flights.lock();
        let own = |flight: &&mut Flight<T>| flight.result.same_channel(&self.result);
        let Some(flight) = flights.get_mut(&self.key).filter(own) else { return };
        flight.waiters -= 1;
        if flight.waiters == 0
            && let Some(flight) = flights.remove(&self.key)
        {
            // Dropping the task's `FlightEntry` takes the lock again.
            drop(flights);
            flight.cancel.set();
            flight.task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    const KEY: &str = "x";

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
    }

    #[test]
    fn all_waiters_get_the_result_of_one_run() {
        runtime().block_on(async {
            let (flights, runs) = (Arc::new(SingleFlight::default()), Arc::new(AtomicUsize::new(0)));
            let (open, gate) = watch::channel(false);
            let waiting: Vec<_> = (0..20)
                .map(|_| {
                    let (flights, runs, mut gate) = (flights.clone(), runs.clone(), gate.clone());
                    tokio::spawn(async move {
                        let work = |_| async move {
                            gate.wait_for(|open| *open).await.unwrap();
                            runs.fetch_add(1, Ordering::SeqCst) + 7
                        };
                        flights.join(&KEY, work).await
                    })
                })
                .collect();
            while flights.flights.lock().get(&KEY).is_none_or(|flight| flight.waiters < 20) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            open.send_replace(true);
            for waiter in waiting {
                assert_eq!(waiter.await.unwrap(), Some(7));
            }
            assert_eq!(flights.join(&KEY, |_| async { 9 }).await, Some(9), "results are not kept");
            assert!(flights.flights.lock().is_empty());
        });
    }

    #[test]
    fn cancels_the_work_when_the_last_waiter_leaves() {
        runtime().block_on(async {
            let flights = Arc::new(SingleFlight::<&str, u8>::default());
            let (sender, mut cancels) = tokio::sync::mpsc::unbounded_channel();
            let join = || {
                let (flights, sender) = (flights.clone(), sender.clone());
                tokio::spawn(async move {
                    let work = |cancel: Cancel| {
                        sender.send(cancel).unwrap();
                        std::future::pending::<u8>()
                    };
                    flights.join(&KEY, work).await
                })
            };
            let (one, two) = (join(), join());
            let cancel = cancels.recv().await.unwrap();
            while flights.flights.lock().get(&KEY).is_none_or(|flight| flight.waiters < 2) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            one.abort();
            let _ = one.await;
            assert!(!cancel.is_set());
            two.abort();
            let _ = two.await;
            assert!(cancel.is_set());
            assert_eq!(flights.join(&KEY, |_| async { 3 }).await, Some(3));
        });
    }

    #[test]
    fn cancels_what_is_left_of_the_work_after_its_result() {
        runtime().block_on(async {
            let flights = Arc::new(SingleFlight::<&str, Cancel>::default());
            let cancel = flights.join(&KEY, |cancel| async { cancel }).await.unwrap();
            // The result is sent before the flight ends.
            while !cancel.is_set() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
    }

    #[test]
    fn returns_none_after_a_panic() {
        runtime().block_on(async {
            let flights = Arc::new(SingleFlight::<&str, u8>::default());
            assert_eq!(flights.join(&KEY, |_| async { panic!("on purpose") }).await, None);
            assert_eq!(flights.join(&KEY, |_| async { 3 }).await, Some(3));
        });
    }
}
