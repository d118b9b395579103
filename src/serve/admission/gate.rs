//! The gate before computation: a bounded number of workers, a bounded queue, and 429 for every other
//! request.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::base::Cancel;
use crate::serve::error::ApiError;
use crate::serve::limits::{QUEUE_TIME, WORK_TIME};
use crate::serve::observe::logging::spawn_blocking;
use crate::serve::observe::metrics::{Metrics, Stage};

/// Runs work on its own threads, no more at once than there are workers.
pub(crate) struct WorkerGate {
    metrics: Arc<Metrics>,
    permits: Arc<Semaphore>,
    workers: usize,
    waiting: AtomicUsize,
    /// Waiting parts of admitted requests. They do not count towards the queue's limit.
    waiting_parts: AtomicUsize,
    queue: usize,
    queue_time: Duration,
    work_time: Duration,
    /// The stage that records the waiting time.
    stage: Stage,
}

/// Cancels the work when the request no longer waits for it: the client has left, or the time is over.
struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.set();
    }
}

impl WorkerGate {
    /// A gate of `workers` workers and a queue of at most `queue` requests.
    pub(crate) fn new(workers: usize, queue: usize, metrics: &Arc<Metrics>) -> WorkerGate {
        let workers = workers.clamp(1, Semaphore::MAX_PERMITS);
        WorkerGate {
            metrics: metrics.clone(),
            permits: Arc::new(Semaphore::new(workers)),
            workers,
            waiting: AtomicUsize::default(),
            waiting_parts: AtomicUsize::default(),
            queue,
            queue_time: QUEUE_TIME,
            work_time: WORK_TIME,
            stage: Stage::Queue,
        }
    }

    /// Replaces the time limits and the stage that records the waiting time.
    pub(crate) fn with(self, queue_time: Duration, work_time: Duration, stage: Stage) -> WorkerGate {
        WorkerGate { queue_time, work_time, stage, ..self }
    }

    /// Number of workers.
    pub(crate) fn workers(&self) -> usize {
        self.workers
    }

    /// Requests, and parts of requests, that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire) + self.waiting_parts.load(Ordering::Acquire)
    }

    /// Waits until all work has ended.
    pub(crate) async fn ended(&self) {
        let all = u32::try_from(self.workers).unwrap_or(u32::MAX);
        // Fails only for a closed semaphore, and this one is never closed.
        let _ = self.permits.acquire_many(all).await;
    }

    /// Waits for a worker and runs `work` on its own thread.
    /// The worker is busy until the work has ended, even if the client has left before.
    ///
    /// # Errors
    /// 429 if the queue is full, or the wait is too long; 503 if the work takes too long; 500 if it panics;
    /// else the error of `work`.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        self.run_cancellable(|_| work()).await
    }

    /// [`WorkerGate::run`] for work that stops soon after its flag is set. The flag is set when the client
    /// leaves, and when the work takes too long.
    ///
    /// # Errors
    /// As [`WorkerGate::run`].
    pub(crate) async fn run_cancellable<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Cancel) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        self.run_queued(&self.waiting, self.queue, self.queue_time, work).await
    }

    /// [`WorkerGate::run_cancellable`] for a further part of an admitted request: it is queued even if the
    /// queue is full, and waits until `deadline`.
    ///
    /// # Errors
    /// As [`WorkerGate::run`].
    pub(crate) async fn run_further<T: Send + 'static>(
        &self,
        deadline: Instant,
        work: impl FnOnce(&Cancel) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let queue_time = deadline.saturating_duration_since(Instant::now());
        self.run_queued(&self.waiting_parts, usize::MAX, queue_time, work).await
    }

    async fn run_queued<T: Send + 'static>(
        &self,
        waiting: &AtomicUsize,
        queue: usize,
        queue_time: Duration,
        work: impl FnOnce(&Cancel) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let start = Instant::now();
        let permit = match self.permits.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let before = waiting.fetch_add(1, Ordering::AcqRel);
                // The place in the queue is returned also if the client leaves while it waits.
                let _place = scopeguard::guard(waiting, |waiting| {
                    waiting.fetch_sub(1, Ordering::AcqRel);
                });
                if before >= queue {
                    return Err(ApiError::busy("too many requests at once: try again in a moment"));
                }
                let permit = tokio::time::timeout(queue_time, self.permits.clone().acquire_owned()).await;
                let too_long = |_| ApiError::busy("the queue is too long: try again later").retry_after(queue_time);
                permit.map_err(too_long)?.map_err(|error| ApiError::internal(&error))?
            }
        };
        self.metrics.observe(self.stage, start.elapsed());
        let cancel = Cancel::default();
        let _cancel = CancelOnDrop(cancel.clone());
        let work = spawn_blocking(move || {
            let _permit = permit;
            work(&cancel)
        });
        match tokio::time::timeout(self.work_time, work).await {
            Ok(Ok(outcome)) => outcome,
            // The panic hook has logged it.
            Ok(Err(_)) => Err(ApiError::panicked()),
            Err(_) => {
                let seconds = self.work_time.as_secs();
                Err(ApiError::unavailable(format!("the computation took more than {seconds} seconds")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::StatusCode;
    use std::sync::mpsc;

    fn gate() -> WorkerGate {
        WorkerGate::new(1, 1, &Arc::default())
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
    }

    #[test]
    fn runs_one_queues_one_and_refuses_the_third() {
        runtime().block_on(async {
            let gate = Arc::new(gate());
            let (go, wait) = mpsc::channel::<()>();
            let (started, has_started) = tokio::sync::oneshot::channel();
            let g = gate.clone();
            let first = tokio::spawn(async move {
                let work = move || {
                    started.send(()).unwrap();
                    wait.recv().unwrap();
                    Ok(1)
                };
                g.run(work).await
            });
            has_started.await.unwrap();
            let g = gate.clone();
            let second = tokio::spawn(async move { g.run(|| Ok(2)).await });
            while gate.waiting() == 0 {
                tokio::task::yield_now().await;
            }
            let third = gate.run(|| Ok(3)).await;
            assert_eq!(third.unwrap_err().status, StatusCode::TOO_MANY_REQUESTS);
            assert_eq!(gate.waiting(), 1, "a refused request takes no place");
            go.send(()).unwrap();
            assert_eq!((first.await.unwrap().unwrap(), second.await.unwrap().unwrap()), (1, 2));
            assert_eq!(gate.waiting(), 0);
        });
    }

    #[test]
    fn a_further_part_is_queued_beyond_the_limit_until_its_deadline() {
        runtime().block_on(async {
            let gate = Arc::new(gate());
            let held = gate.permits.clone().acquire_owned().await.unwrap();
            let g = gate.clone();
            let deadline = Instant::now() + Duration::from_secs(60);
            let further = tokio::spawn(async move { g.run_further(deadline, |_| Ok(1)).await });
            while gate.waiting() == 0 {
                tokio::task::yield_now().await;
            }
            let g = gate.clone();
            let single = tokio::spawn(async move { g.run(|| Ok(2)).await });
            while gate.waiting() == 1 {
                tokio::task::yield_now().await;
            }
            let third = gate.run(|| Ok(3)).await.unwrap_err();
            assert_eq!(third.status, StatusCode::TOO_MANY_REQUESTS, "one request may wait besides the further part");
            let late = gate.run_further(Instant::now(), |_| Ok(3)).await;
            assert_eq!(late.unwrap_err().status, StatusCode::TOO_MANY_REQUESTS);
            drop(held);
            assert_eq!((further.await.unwrap().unwrap(), single.await.unwrap().unwrap()), (1, 2));
            assert_eq!(gate.waiting(), 0);
        });
    }

    #[test]
    fn a_client_that_leaves_frees_its_place_in_the_queue() {
        runtime().block_on(async {
            let gate = Arc::new(gate());
            let held = gate.permits.clone().acquire_owned().await.unwrap();
            let g = gate.clone();
            let waiting = tokio::spawn(async move { g.run(|| Ok(())).await });
            while gate.waiting() == 0 {
                tokio::task::yield_now().await;
            }
            waiting.abort();
            assert!(waiting.await.unwrap_err().is_cancelled());
            assert_eq!(gate.waiting(), 0);
            drop(held);
            gate.run(|| Ok(())).await.unwrap();
        });
    }

    #[test]
    fn work_beyond_its_time_limit_keeps_its_worker() {
        runtime().block_on(async {
            let gate = WorkerGate { work_time: Duration::from_millis(20), ..gate() };
            let (go, wait) = mpsc::channel::<()>();
            let late = gate
                .run(move || {
                    wait.recv().unwrap();
                    Ok(())
                })
                .await;
            assert_eq!(late.unwrap_err().status, StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(gate.permits.available_permits(), 0);
            go.send(()).unwrap();
            gate.run(|| Ok(())).await.unwrap();
        });
    }

    #[test]
    fn work_is_cancelled_when_the_client_leaves_or_the_time_is_over() {
        runtime().block_on(async {
            for client_leaves in [true, false] {
                let work_time = if client_leaves { WORK_TIME } else { Duration::from_millis(20) };
                let gate = Arc::new(WorkerGate { work_time, ..gate() });
                let (started, has_started) = tokio::sync::oneshot::channel();
                let g = gate.clone();
                let request = tokio::spawn(async move {
                    let work = move |cancel: &Cancel| {
                        started.send(()).unwrap();
                        while !cancel.is_set() {
                            std::thread::yield_now();
                        }
                        Ok(())
                    };
                    g.run_cancellable(work).await
                });
                has_started.await.unwrap();
                if client_leaves {
                    request.abort();
                }
                // It waits for the worker, which ends only when it is cancelled.
                gate.run(|| Ok(())).await.unwrap();
            }
        });
    }

    #[test]
    fn a_panic_fails_one_request() {
        runtime().block_on(async {
            let gate = gate();
            let failed = gate.run::<()>(|| panic!("in the work")).await;
            assert_eq!(failed.unwrap_err().status, StatusCode::INTERNAL_SERVER_ERROR);
            gate.run(|| Ok(())).await.unwrap();
        });
    }
}
