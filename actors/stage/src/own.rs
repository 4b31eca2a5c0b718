//! Watershed's telemetry of itself: where its spans go, and what keeps it from feeding on itself.
//!
//! Whether a request is traced is decided once, where it enters. From there on its [`Origin`](crate::Origin)
//! carries its span, so an exporter's attempts are traced exactly if something in them is. What Watershed tells of
//! itself enters with a trace of its own that is *not* sampled and says in its `tracestate` whose it is
//! ([`TraceContext::own`]). So nobody traces it: no exporter here, no collector behind it that respects its
//! callers, and not this process if it comes back to it. While it is handled the lane is hushed
//! ([`is_hushed`]): what is logged then is for people, and not to be sent after it.

use std::borrow::Cow;
use std::cell::Cell;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::{ArcSwapOption, Guard};
use watershed_delivery::Outcome;
use watershed_telemetry::Signal;

use crate::exporter::{ExportError, Partial};
use crate::origin::TraceContext;

/// The `tracestate` of what a Watershed tells of itself.
const OWN: &str = "watershed=own";

/// The most spans that an attempt's span is linked to.
const MOST_LINKS: usize = 32;

thread_local! {
    static HUSHED: Cell<u32> = const { Cell::new(0) };
}

/// Records the spans of Watershed's own work.
pub trait Tracer: Send + Sync {
    /// Begins a span, unless it is not to be recorded. What has a parent or links is: they are sampled.
    fn begin(&self, work: &Work<'_>) -> Option<Box<dyn Span>>;
}

/// A span that has begun. Dropped without an end, it was cut short.
pub trait Span: Send {
    /// Its place in its trace.
    fn context(&self) -> &TraceContext;

    /// Ends it: so many items, taken or not.
    fn end(self: Box<Self>, items: usize, ended: &Ended<'_>);
}

/// A piece of work that may be worth a span.
#[derive(Debug)]
pub struct Work<'a> {
    /// Who works.
    pub worker: Worker,
    /// Its id.
    pub id: &'a str,
    /// What it works on.
    pub signal: Signal,
    /// The span that it is a part of.
    pub parent: Option<&'a TraceContext>,
    /// The spans of the requests that it works for, where they are several; not all of very many.
    pub links: Vec<&'a TraceContext>,
}

/// Who works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worker {
    /// A receiver, on a request, from its admission to its outcome.
    Receiver,
    /// An exporter, on one attempt.
    Exporter,
}

/// How a piece of work ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended<'a> {
    /// Taken.
    Taken,
    /// Not now.
    Refused(Cow<'a, str>),
    /// Not ever.
    Rejected(Cow<'a, str>),
}

type SharedTracer = Arc<Box<dyn Tracer>>;

/// Where the spans of a role go. Clones share it. Until somebody wants them there are none.
#[derive(Clone, Default)]
pub struct Tracing(Arc<Slot>);

#[derive(Default)]
struct Slot {
    /// Whether there may be a tracer. Without one a request costs a look at this, and the slot itself ten times that.
    is_on: AtomicBool,
    tracer: ArcSwapOption<Box<dyn Tracer>>,
}

/// As long as this is held, spans are recorded, unless somebody else has begun to record them since.
pub struct Recording {
    tracing: Tracing,
    tracer: SharedTracer,
}

/// Whether what is logged on this thread now is about Watershed's telemetry of itself.
pub fn is_hushed() -> bool {
    HUSHED.get() > 0
}

/// Hushes this thread as long as it is held.
pub(crate) struct Hush;

// === impl Tracing ===

impl Tracing {
    /// Has this tracer record spans, and no other.
    #[must_use]
    pub fn record(&self, tracer: Box<dyn Tracer>) -> Recording {
        let tracer = Arc::new(tracer);
        self.0.tracer.store(Some(tracer.clone()));
        self.0.is_on.store(true, Ordering::SeqCst);
        Recording { tracing: self.clone(), tracer }
    }

    fn tracer(&self) -> Option<Guard<Option<SharedTracer>>> {
        self.0.is_on.load(Ordering::Relaxed).then(|| self.0.tracer.load())
    }

    /// The span of a request that came from `caller`.
    pub(crate) fn request(
        &self,
        id: &str,
        signal: Signal,
        caller: Option<&TraceContext>,
    ) -> Option<Box<dyn Span>> {
        let tracer = self.tracer()?;
        let tracer = tracer.as_ref()?;
        if caller.is_some_and(|caller| !caller.is_sampled()) {
            return None;
        }
        tracer.begin(&Work { worker: Worker::Receiver, id, signal, parent: caller, links: Vec::new() })
    }

    /// The span of an attempt to export what belongs to these traces: a part of theirs if it is one.
    pub(crate) fn attempt<'a>(
        &self,
        id: &str,
        signal: Signal,
        traces: impl Iterator<Item = Option<&'a TraceContext>>,
    ) -> Option<Box<dyn Span>> {
        let tracer = self.tracer()?;
        let tracer = tracer.as_ref()?;
        let mut links: Vec<&TraceContext> = Vec::new();
        for trace in traces.flatten().filter(|trace| trace.is_sampled()).take(MOST_LINKS) {
            if !links.contains(&trace) {
                links.push(trace);
            }
        }
        let parent = match links[..] {
            [] => return None,
            [only] => {
                links.clear();
                Some(only)
            }
            _ => None,
        };
        tracer.begin(&Work { worker: Worker::Exporter, id, signal, parent, links })
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let Slot { is_on, tracer } = &*self.tracing.0;
        // In this order, whoever begins meanwhile is not left without.
        is_on.store(false, Ordering::SeqCst);
        tracer.compare_and_swap(&Some(self.tracer.clone()), None);
        if tracer.load().is_some() {
            is_on.store(true, Ordering::SeqCst);
        }
    }
}

// === impl TraceContext ===

impl TraceContext {
    /// The trace of what Watershed tells of itself: not sampled, and known as such wherever it gets to. Each batch
    /// of one sender should carry the same, so that they can be merged and still have one.
    pub fn own(trace_id: [u8; 16], span_id: [u8; 8]) -> Self {
        Self { trace_id, span_id, flags: 0, state: Some(OWN.into()) }
    }

    /// Whether it is that of a Watershed's telemetry of itself.
    pub fn is_own(&self) -> bool {
        self.state.iter().flat_map(|state| state.split(',')).any(|entry| entry.trim() == OWN)
    }
}

// === impl Ended ===

impl<'a> From<&'a Outcome> for Ended<'a> {
    fn from(outcome: &'a Outcome) -> Self {
        match outcome {
            Outcome::Refused(refusal) => Self::Refused(Cow::Borrowed(&refusal.reason)),
            Outcome::Rejected(rejection) => Self::Rejected(Cow::Borrowed(&rejection.reason)),
            Outcome::Dropped { .. } | Outcome::Delivered => Self::Taken,
        }
    }
}

impl<'a> From<&'a Result<Partial, ExportError>> for Ended<'a> {
    fn from(result: &'a Result<Partial, ExportError>) -> Self {
        match result {
            Ok(Partial { rejected: 0, .. }) => Self::Taken,
            Ok(partial) => Self::Rejected(Cow::Borrowed(&partial.message)),
            Err(ExportError::Retryable { reason, .. } | ExportError::Exhausted { reason, .. }) => {
                Self::Refused(Cow::Borrowed(reason))
            }
            Err(
                ExportError::TooLarge { reason, .. }
                | ExportError::TooMuch { reason }
                | ExportError::Permanent { reason, .. },
            ) => Self::Rejected(Cow::Borrowed(reason)),
        }
    }
}

// === impl Hush ===

impl Hush {
    /// Hushes this thread if what is handled now is of this trace and it is an own one.
    pub(crate) fn over(trace: Option<&TraceContext>) -> Option<Self> {
        trace.is_some_and(TraceContext::is_own).then(|| {
            HUSHED.set(HUSHED.get() + 1);
            Self
        })
    }

    /// Runs `work`, hushed wherever it goes on if it is about this trace and it is an own one.
    pub(crate) async fn during<T>(trace: Option<&TraceContext>, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        std::future::poll_fn(|context| {
            let _hush = Self::over(trace);
            work.as_mut().poll(context)
        })
        .await
    }
}

impl Drop for Hush {
    fn drop(&mut self) {
        HUSHED.set(HUSHED.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    /// Whose work it was, the parent's first byte and those of the links.
    type Entry = (Worker, Option<u8>, Vec<u8>);

    /// Begins everything, and writes it down.
    #[derive(Clone, Default)]
    struct Book(Arc<Mutex<Vec<Entry>>>);

    struct Page(TraceContext);

    impl Tracer for Book {
        fn begin(&self, work: &Work<'_>) -> Option<Box<dyn Span>> {
            let links = work.links.iter().map(|link| link.trace_id[0]).collect();
            self.0.lock().push((work.worker, work.parent.map(|parent| parent.trace_id[0]), links));
            Some(Box::new(Page(context(0, 1))))
        }
    }

    impl Span for Page {
        fn context(&self) -> &TraceContext {
            &self.0
        }

        fn end(self: Box<Self>, _: usize, _: &Ended<'_>) {}
    }

    fn context(trace: u8, flags: u8) -> TraceContext {
        TraceContext { trace_id: [trace; 16], span_id: [1; 8], flags, state: None }
    }

    #[test]
    fn requests_are_traced_unless_their_caller_says_no() {
        let (tracing, book) = (Tracing::default(), Book::default());
        let request = |caller: Option<&TraceContext>| tracing.request("rx", Signal::Traces, caller).is_some();
        assert!(!request(None), "nobody wants to know");
        let recording = tracing.record(Box::new(book.clone()));
        assert!(request(None) && request(Some(&context(3, 1))));
        assert!(!request(Some(&context(3, 0))) && !request(Some(&TraceContext::own([3; 16], [1; 8]))));
        assert_eq!(
            book.0.lock()[..],
            [(Worker::Receiver, None, vec![]), (Worker::Receiver, Some(3), vec![])]
        );
        // Who comes later has it, also after the first has gone.
        let later = tracing.record(Box::new(Book::default()));
        drop(recording);
        assert!(request(None));
        drop(later);
        assert!(!request(None));
    }

    #[test]
    fn attempts_are_traced_if_something_in_them_is() {
        let (tracing, book) = (Tracing::default(), Book::default());
        let _recording = tracing.record(Box::new(book.clone()));
        let (one, two, unsampled) = (context(1, 1), context(2, 1), context(4, 0));
        let attempt =
            |traces: &[Option<&TraceContext>]| tracing.attempt("ex", Signal::Logs, traces.iter().copied());
        assert!(attempt(&[]).is_none() && attempt(&[None, Some(&unsampled)]).is_none());
        for traces in [&[Some(&one), Some(&one)][..], &[None, Some(&two)], &[Some(&one), None, Some(&two)]] {
            assert!(attempt(traces).is_some());
        }
        let worker = Worker::Exporter;
        let expected = [(worker, Some(1), vec![]), (worker, Some(2), vec![]), (worker, None, vec![1, 2])];
        assert_eq!(book.0.lock()[..], expected);
        let many: Vec<TraceContext> = (0..100).map(|trace| context(trace, 1)).collect();
        assert!(attempt(&many.iter().map(Some).collect::<Vec<_>>()).is_some());
        assert_eq!(book.0.lock().last().map(|(_, _, links)| links.len()), Some(MOST_LINKS));
    }

    #[test]
    fn an_own_trace_is_known_after_a_journey_and_hushes() {
        let own = TraceContext::own([3; 16], [1; 8]);
        let mut back = TraceContext::from_headers(&own.headers()).unwrap();
        assert_eq!(back, own);
        back.state = back.state.map(|state| format!("proxy=1, {state}").into());
        assert!(back.is_own() && !back.is_sampled() && !context(3, 0).is_own());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for (trace, hushed) in [(Some(&back), true), (Some(&context(3, 0)), false), (None, false)] {
            let work = async {
                let before = is_hushed();
                tokio::task::yield_now().await;
                (before, is_hushed())
            };
            assert_eq!(runtime.block_on(Hush::during(trace, work)), (hushed, hushed));
            assert!(!is_hushed());
        }
    }
}
