//! The signal that ends what runs until it is told to stop.

use tokio::sync::watch;

/// Tells everyone who holds a [`Stop`] of it to stop, by [`StopSignal::stop`] or by being dropped.
#[derive(Debug)]
pub struct StopSignal {
    sender: watch::Sender<bool>,
}

/// The waiting end of a [`StopSignal`]; clones wait for the same signal.
#[derive(Clone, Debug)]
pub struct Stop {
    receiver: watch::Receiver<bool>,
}

impl StopSignal {
    /// A signal that has not been given, and its waiting end.
    pub fn new() -> (Self, Stop) {
        let (sender, receiver) = watch::channel(false);
        (Self { sender }, Stop { receiver })
    }

    /// Gives the signal, once and for all.
    pub fn stop(&self) {
        self.sender.send_replace(true);
    }
}

impl Stop {
    /// Ready once the signal has been given or its sender is gone.
    pub async fn stopped(&self) {
        // An error means that the sender is gone: nobody is left who could want this to run.
        let _ = self.receiver.clone().wait_for(|stopped| *stopped).await;
    }

    /// Whether the signal has been given.
    pub fn is_stopped(&self) -> bool {
        *self.receiver.borrow() || self.receiver.has_changed().is_err()
    }
}
