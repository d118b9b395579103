//! One worker for all who wait for the same: the first asks for it, others join. When the last has gone, the work is stopped, and leaves the queue if it stood there.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tracing::Instrument;

use crate::base::Cancel;
use crate::serve::api::cache::Key;

/// The work that goes on, by what it makes.
#[derive(Debug)]
pub(crate) struct Flights<T>(Mutex<HashMap<Key, Flight<T>>>);

#[derive(Debug)]
struct Flight<T> {
    done: watch::Receiver<Option<T>>,
    cancel: Cancel,
    /// Of what waits for the work; the work itself hears of it by `cancel`.
    task: AbortHandle,
    waiting: usize,
}

impl<T> Default for Flights<T> {
    fn default() -> Flights<T> {
        Flights(Mutex::default())
    }
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Flight<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `work` gives, or the work that somebody else began for the same key; `None` if it panicked.
    pub(crate) async fn join<F>(self: &Arc<Self>, key: &Key, work: impl FnOnce(Cancel) -> F) -> Option<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let (mut done, seat) = {
            let mut flights = self.lock();
            let flight = flights.entry(key.clone()).or_insert_with(|| {
                let (sender, done) = watch::channel(None);
                let cancel = Cancel::default();
                let landing = Landing { flights: self.clone(), key: key.clone(), sender };
                let work = work(cancel.clone());
                let flight = async move {
                    let outcome = work.await;
                    landing.sender.send_replace(Some(outcome));
                };
                // What goes wrong is told of the request that was the first to ask.
                let task = tokio::spawn(flight.in_current_span());
                Flight { done, cancel, task: task.abort_handle(), waiting: 0 }
            });
            flight.waiting += 1;
            (flight.done.clone(), Seat { flights: self.clone(), key: key.clone(), done: flight.done.clone() })
        };
        let outcome = done.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        drop(seat);
        outcome
    }
}

/// Takes the flight off the list when its work has ended, be it by a panic.
struct Landing<T: Clone + Send + Sync + 'static> {
    flights: Arc<Flights<T>>,
    key: Key,
    sender: watch::Sender<Option<T>>,
}

impl<T: Clone + Send + Sync + 'static> Drop for Landing<T> {
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        // All may have gone, and others begun anew.
        if flights.get(&self.key).is_some_and(|flight| flight.done.same_channel(&self.sender.subscribe())) {
            flights.remove(&self.key);
        }
    }
}

/// One who waits.
struct Seat<T: Clone + Send + Sync + 'static> {
    flights: Arc<Flights<T>>,
    key: Key,
    done: watch::Receiver<Option<T>>,
}

impl<T: Clone + Send + Sync + 'static> Drop for Seat<T> {
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        let Some(flight) = flights.get_mut(&self.key).filter(|flight| flight.done.same_channel(&self.done)) else {
            return;
        };
        flight.waiting -= 1;
        if flight.waiting == 0
            && let Some(flight) = flights.remove(&self.key)
        {
            // Its landing wants the list.
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

    fn key() -> Key {
        Key::new(&[b"x"], "jpg")
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
    }

    #[test]
    fn all_who_wait_get_what_one_worker_made() {
        runtime().block_on(async {
            let (flights, made) = (Arc::new(Flights::default()), Arc::new(AtomicUsize::new(0)));
            let (open, gate) = watch::channel(false);
            let waiting: Vec<_> = (0..20)
                .map(|_| {
                    let (flights, made, mut gate) = (flights.clone(), made.clone(), gate.clone());
                    tokio::spawn(async move {
                        let work = |_| async move {
                            gate.wait_for(|open| *open).await.unwrap();
                            made.fetch_add(1, Ordering::SeqCst) + 7
                        };
                        flights.join(&key(), work).await
                    })
                })
                .collect();
            while flights.lock().get(&key()).is_none_or(|flight| flight.waiting < 20) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            open.send_replace(true);
            for one in waiting {
                assert_eq!(one.await.unwrap(), Some(7));
            }
            assert_eq!(flights.join(&key(), |_| async { 9 }).await, Some(9), "nothing is remembered");
            assert!(flights.lock().is_empty());
        });
    }

    #[test]
    fn the_last_to_go_stops_the_work_and_the_next_begins_anew() {
        runtime().block_on(async {
            let flights = Arc::new(Flights::<u8>::default());
            let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
            let ask = || {
                let (flights, sender) = (flights.clone(), sender.clone());
                tokio::spawn(async move {
                    let work = |cancel: Cancel| {
                        sender.send(cancel).unwrap();
                        std::future::pending::<u8>()
                    };
                    flights.join(&key(), work).await
                })
            };
            let (one, two) = (ask(), ask());
            let cancel = seen.recv().await.unwrap();
            while flights.lock().get(&key()).is_none_or(|flight| flight.waiting < 2) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            one.abort();
            let _ = one.await;
            assert!(!cancel.is_set());
            two.abort();
            let _ = two.await;
            assert!(cancel.is_set());
            assert_eq!(flights.join(&key(), |_| async { 3 }).await, Some(3));
        });
    }

    #[test]
    fn a_panic_reaches_those_who_wait_as_nothing() {
        runtime().block_on(async {
            let flights = Arc::new(Flights::<u8>::default());
            assert_eq!(flights.join(&key(), |_| async { panic!("on purpose") }).await, None);
            assert_eq!(flights.join(&key(), |_| async { 3 }).await, Some(3));
        });
    }
}
