//! The gate before work that takes a processor: so many at once, so many waiting, the others are sent away.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use tokio::sync::Semaphore;

use crate::serve::error::ApiError;
use crate::serve::observe::log;
use crate::serve::observe::metrics::{Metrics, Stage};

/// Longest wait in the queue: who waits longer than this has most likely gone.
const QUEUE_TIME: Duration = Duration::from_secs(10);
/// Longest that an answer is waited for. The largest picture that is taken needs a few seconds.
const WORK_TIME: Duration = Duration::from_secs(30);

/// Lets through as many as there are workers.
pub(crate) struct Gate {
    workers: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    /// Those who wait and were let in before: they take nobody's place in the queue.
    further: Arc<AtomicUsize>,
    queue: usize,
    queue_time: Duration,
    work_time: Duration,
    /// What waiting is noted as.
    stage: Stage,
}

/// A place in the queue; given back when whoever waits has gone, too.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Gate {
    pub(crate) fn new(workers: usize, queue: usize) -> Gate {
        let workers = workers.clamp(1, Semaphore::MAX_PERMITS);
        Gate {
            workers: Arc::new(Semaphore::new(workers)),
            waiting: Arc::default(),
            further: Arc::default(),
            queue,
            queue_time: QUEUE_TIME,
            work_time: WORK_TIME,
            stage: Stage::Queue,
        }
    }

    /// With other patience, and waiting noted as another stage.
    pub(crate) fn with(self, queue_time: Duration, work_time: Duration, stage: Stage) -> Gate {
        Gate { queue_time, work_time, stage, ..self }
    }

    /// Requests that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire) + self.further.load(Ordering::Acquire)
    }

    /// Does the work on a thread of its own, when its turn has come.
    ///
    /// A worker is free again when the work has ended, not when nobody waits for it any more: there is never more of it at once than there are workers.
    ///
    /// # Errors
    /// 429 if too many wait, or the wait is too long, with as long a wait before the next attempt; 503 if the work takes too long; 500 if it panics; else
    /// what the work says.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        metrics: &Metrics,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        self.run_among(metrics, &self.waiting, self.queue, self.queue_time, work).await
    }

    /// As [`Gate::run`], for a further part of a request that was let in before: it is not sent away, however many wait, and waits until then.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn run_further<T: Send + 'static>(
        &self,
        metrics: &Metrics,
        until: Instant,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let patience = until.saturating_duration_since(Instant::now());
        self.run_among(metrics, &self.further, usize::MAX, patience, work).await
    }

    async fn run_among<T: Send + 'static>(
        &self,
        metrics: &Metrics,
        waiting: &Arc<AtomicUsize>,
        queue: usize,
        queue_time: Duration,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let start = Instant::now();
        let worker = match self.workers.clone().try_acquire_owned() {
            Ok(worker) => worker,
            Err(_) => {
                let before = waiting.fetch_add(1, Ordering::AcqRel);
                let _place = Place(waiting.clone());
                if before >= queue {
                    return Err(ApiError::busy("too many requests at once: try again in a moment"));
                }
                let turn = tokio::time::timeout(queue_time, self.workers.clone().acquire_owned()).await;
                let turn =
                    turn.map_err(|_| ApiError::busy("the queue is too long: try again later").after(queue_time))?;
                turn.map_err(|error| ApiError::internal(&error))?
            }
        };
        metrics.observe(self.stage, start.elapsed());
        let work = log::blocking(move || {
            let _worker = worker;
            work()
        });
        match tokio::time::timeout(self.work_time, work).await {
            Ok(Ok(answer)) => answer,
            // The panic hook has told the log.
            Ok(Err(_)) => Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, crate::serve::PANIC)),
            Err(_) => {
                let seconds = self.work_time.as_secs();
                Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, format!("this took more than {seconds} seconds")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
    }

    #[test]
    fn one_works_one_waits_and_the_third_is_sent_away() {
        runtime().block_on(async {
            let gate = Arc::new(Gate::new(1, 1));
            let metrics = Arc::new(Metrics::default());
            let (go, wait) = mpsc::channel::<()>();
            let (started, has_started) = tokio::sync::oneshot::channel();
            let (g, m) = (gate.clone(), metrics.clone());
            let first = tokio::spawn(async move {
                let work = move || {
                    started.send(()).unwrap();
                    wait.recv().unwrap();
                    Ok(1)
                };
                g.run(&m, work).await
            });
            has_started.await.unwrap();
            let (g, m) = (gate.clone(), metrics.clone());
            let second = tokio::spawn(async move { g.run(&m, || Ok(2)).await });
            while gate.waiting() == 0 {
                tokio::task::yield_now().await;
            }
            let third = gate.run(&metrics, || Ok(3)).await;
            assert_eq!(third.unwrap_err().status, StatusCode::TOO_MANY_REQUESTS);
            assert_eq!(gate.waiting(), 1, "who is sent away leaves no place taken");
            go.send(()).unwrap();
            assert_eq!((first.await.unwrap().unwrap(), second.await.unwrap().unwrap()), (1, 2));
            assert_eq!(gate.waiting(), 0);
        });
    }

    #[test]
    fn a_further_part_waits_where_others_are_sent_away_but_not_for_ever() {
        runtime().block_on(async {
            let gate = Arc::new(Gate::new(1, 1));
            let metrics = Arc::new(Metrics::default());
            let held = gate.workers.clone().acquire_owned().await.unwrap();
            let (g, m) = (gate.clone(), metrics.clone());
            let until = Instant::now() + Duration::from_secs(60);
            let further = tokio::spawn(async move { g.run_further(&m, until, || Ok(1)).await });
            while gate.waiting() == 0 {
                tokio::task::yield_now().await;
            }
            let (g, m) = (gate.clone(), metrics.clone());
            let single = tokio::spawn(async move { g.run(&m, || Ok(2)).await });
            while gate.waiting() == 1 {
                tokio::task::yield_now().await;
            }
            let third = gate.run(&metrics, || Ok(3)).await.unwrap_err();
            assert_eq!(third.status, StatusCode::TOO_MANY_REQUESTS, "one may wait, besides the further part");
            let late = gate.run_further(&metrics, Instant::now(), || Ok(3)).await;
            assert_eq!(late.unwrap_err().status, StatusCode::TOO_MANY_REQUESTS);
            drop(held);
            assert_eq!((further.await.unwrap().unwrap(), single.await.unwrap().unwrap()), (1, 2));
            assert_eq!(gate.waiting(), 0);
        });
    }

    #[test]
    fn who_leaves_the_queue_frees_the_place() {
        runtime().block_on(async {
            let gate = Arc::new(Gate::new(1, 1));
            let metrics = Arc::new(Metrics::default());
            let held = gate.workers.clone().acquire_owned().await.unwrap();
            let (g, m) = (gate.clone(), metrics.clone());
            let waits = tokio::spawn(async move { g.run(&m, || Ok(())).await });
            while gate.waiting() == 0 {
                tokio::task::yield_now().await;
            }
            waits.abort();
            assert!(waits.await.unwrap_err().is_cancelled());
            assert_eq!(gate.waiting(), 0);
            drop(held);
            gate.run(&metrics, || Ok(())).await.unwrap();
        });
    }

    #[test]
    fn work_that_takes_too_long_is_not_waited_for_and_keeps_its_worker() {
        runtime().block_on(async {
            let gate = Gate { work_time: Duration::from_millis(20), ..Gate::new(1, 1) };
            let metrics = Metrics::default();
            let (go, wait) = mpsc::channel::<()>();
            let late = gate
                .run(&metrics, move || {
                    wait.recv().unwrap();
                    Ok(())
                })
                .await;
            assert_eq!(late.unwrap_err().status, StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(gate.workers.available_permits(), 0);
            go.send(()).unwrap();
            gate.run(&metrics, || Ok(())).await.unwrap();
        });
    }

    #[test]
    fn a_panic_costs_one_answer() {
        runtime().block_on(async {
            let gate = Gate::new(1, 1);
            let metrics = Metrics::default();
            let lost = gate.run::<()>(&metrics, || panic!("in the work")).await;
            assert_eq!(lost.unwrap_err().status, StatusCode::INTERNAL_SERVER_ERROR);
            gate.run(&metrics, || Ok(())).await.unwrap();
        });
    }
}
