//! The wish to stop.  The handlers are installed before anything long begins, so that a stop during loading is a clean
//! stop too.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::Error;

/// SIGTERM and SIGINT, listened to from the moment of construction.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Installs the handlers.  Must be called inside the tokio runtime.
    ///
    /// # Errors
    /// [`Error::Threads`] when the system refuses a handler.
    pub fn install() -> Result<StopSignals, Error> {
        let handler = |kind| signal(kind).map_err(|source| Error::Threads { source });
        Ok(StopSignals { terminate: handler(SignalKind::terminate())?, interrupt: handler(SignalKind::interrupt())? })
    }

    /// Resolves at the next signal.
    pub async fn requested(&mut self) {
        let name = tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "asked to stop");
    }
}
