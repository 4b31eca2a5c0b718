//! How a stage fails, and where its panics end.

use std::any::Any;
use std::borrow::Cow;
use std::error::Error;
use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;

use crate::Exit;

/// Why a stage did not start, or stopped running.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// One sentence, causes included.
    pub message: String,
    /// How it came about.
    pub exit: Exit,
}

/// Runs a future to its end, or to its panic.
///
/// The unwinding ends here, so whoever owns what the future borrowed is dropped in peace: a stage whose `Drop`
/// may panic too must be handled through this, or the second panic aborts the process.
pub async fn caught<F: Future>(future: F) -> Result<F::Output, Failure> {
    AssertUnwindSafe(future).catch_unwind().await.map_err(Failure::panicked)
}

/// Runs code that belongs to a message or a stage where a panic may not pass.
pub(crate) fn quietly<R>(code: impl FnOnce() -> R) -> Option<R> {
    match std::panic::catch_unwind(AssertUnwindSafe(code)) {
        Ok(result) => Some(result),
        Err(payload) => {
            let failure = Failure::panicked(payload);
            tracing::error!(panic = %failure, "a panic outside of any handler was contained");
            None
        }
    }
}

// === impl Failure ===

impl Failure {
    /// A failure that is no panic.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), exit: Exit::Failed }
    }

    /// A failure out of an error and its sources.
    pub fn from_error(error: &(dyn Error + 'static)) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        Self::new(message)
    }

    /// Whether this was a panic.
    pub fn is_panic(&self) -> bool {
        self.exit == Exit::Panicked
    }

    pub(crate) fn panicked(payload: Box<dyn Any + Send>) -> Self {
        let message = text(payload.as_ref()).into_owned();
        // A payload may panic when it is dropped, and what it throws then may do so again.
        if let Err(payload) = std::panic::catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(payload);
        }
        Self { message, exit: Exit::Panicked }
    }
}

/// What a panic said, where it said it in words.
fn text(payload: &(dyn Any + Send)) -> Cow<'static, str> {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        Cow::Borrowed(text)
    } else if let Some(text) = payload.downcast_ref::<String>() {
        Cow::Owned(text.clone())
    } else {
        Cow::Borrowed("a panic without a message")
    }
}
