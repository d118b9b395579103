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

    /// Installs handlers that make SIGINT and SIGTERM (Ctrl-C outside of Unix) request a shutdown.
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

/// SIGINT and SIGTERM; Ctrl-C outside of Unix.
struct Signals {
    #[cfg(unix)]
    unix: [tokio::signal::unix::Signal; 2],
    #[cfg(not(unix))]
    ctrl_c: tokio::signal::windows::CtrlC,
}

impl Signals {
    #[cfg(unix)]
    fn new() -> std::io::Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals { unix: [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?] })
    }

    #[cfg(not(unix))]
    fn new() -> std::io::Result<Signals> {
        Ok(Signals { ctrl_c: tokio::signal::windows::ctrl_c()? })
    }

    #[cfg(unix)]
    async fn next(&mut self) {
        let [interrupt, terminate] = &mut self.unix;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }

    #[cfg(not(unix))]
    async fn next(&mut self) {
        let _ = self.ctrl_c.recv().await;
    }
}
