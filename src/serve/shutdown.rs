//! Requests to stop the server.

use std::sync::Arc;

use tokio::sync::watch;

/// Stops a running server: the first request drains it, the second stops it at once. Clones share their
/// state.
#[derive(Debug, Clone)]
pub struct ShutdownSignal(Arc<watch::Sender<usize>>);

impl Default for ShutdownSignal {
    fn default() -> ShutdownSignal {
        ShutdownSignal(Arc::new(watch::Sender::new(0)))
    }
}

impl ShutdownSignal {
    /// Requests a shutdown. May be called from any thread.
    pub fn request(&self) {
        self.0.send_modify(|requests| *requests += 1);
    }

    /// Waits until a shutdown was requested `count` times.
    pub(crate) async fn requested(&self, count: usize) {
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self.0.subscribe().wait_for(|requests| *requests >= count).await;
    }

    /// Installs handlers that make SIGINT, SIGTERM and SIGHUP (Ctrl-C outside of Unix) request a shutdown.
    /// A signal stays ignored if it is ignored at the start, as SIGHUP is under `nohup`.
    /// [`run`](crate::serve::run) itself installs none.
    ///
    /// # Errors
    /// If the system refuses the handlers or a thread.
    pub fn on_signals() -> std::io::Result<ShutdownSignal> {
        let shutdown = ShutdownSignal::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        // Registered before the thread starts, so that no signal is missed.
        let mut signals = Signals::new()?;
        drop(entered);
        let requests = shutdown.clone();
        let wait = move || {
            runtime.block_on(async {
                loop {
                    signals.next().await;
                    requests.request();
                }
            });
        };
        std::thread::Builder::new().name("signals".into()).spawn(wait)?;
        Ok(shutdown)
    }
}

/// SIGINT, SIGTERM and SIGHUP; Ctrl-C outside of Unix.
struct Signals {
    #[cfg(unix)]
    unix: Vec<tokio::signal::unix::Signal>,
    #[cfg(not(unix))]
    ctrl_c: tokio::signal::windows::CtrlC,
}

impl Signals {
    #[cfg(unix)]
    fn new() -> std::io::Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        let kinds = crate::base::signals::stop_signals().into_iter().map(SignalKind::from_raw);
        Ok(Signals { unix: kinds.map(signal).collect::<std::io::Result<_>>()? })
    }

    #[cfg(not(unix))]
    fn new() -> std::io::Result<Signals> {
        Ok(Signals { ctrl_c: tokio::signal::windows::ctrl_c()? })
    }

    #[cfg(unix)]
    async fn next(&mut self) {
        std::future::poll_fn(|context| match self.unix.iter_mut().any(|signal| signal.poll_recv(context).is_ready()) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        })
        .await;
    }

    #[cfg(not(unix))]
    async fn next(&mut self) {
        let _ = self.ctrl_c.recv().await;
    }
}
