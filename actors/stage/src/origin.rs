//! Where a request came from: the other end of its connection, what it sent along, who it proved to be and which
//! trace it belongs to.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName};

/// Where a request came from. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The sender's address, where it came by a socket.
    pub peer: Option<SocketAddr>,
    /// What the sender sent along, where the receiver was told to keep it (`include_metadata`).
    pub metadata: Metadata,
    /// Who the sender proved to be.
    pub auth: Option<Arc<Identity>>,
    /// The trace the sender's call belongs to.
    pub trace: Option<TraceContext>,
}

/// Request headers by name, in any case of letters. Empty unless the receiver keeps them.
#[derive(Clone, Default)]
pub struct Metadata(Option<Arc<HeaderMap>>);

/// Who a sender proved to be, as its authenticator says it: `subject`, `username`, ...
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity(pub BTreeMap<String, String>);

/// A span in somebody's trace (W3C Trace Context, level 2, section 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace_id: [u8; 16],
    /// The span that the call is a part of.
    pub span_id: [u8; 8],
    /// `trace-flags`; bit 0 is "sampled".
    pub flags: u8,
    /// `tracestate` as it came, unless it is longer than anybody has to pass on.
    pub state: Option<Arc<str>>,
}

/// What is no `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a traceparent is `00-<32 hex digits>-<16 hex digits>-<2 hex digits>`, neither id all zeroes")]
pub struct NoTraceParent;

/// The longest `tracestate` that is passed on (section 3.3.1.5).
const LONGEST_STATE: usize = 512;

/// What a header takes beside its name and its value.
const HEADER: usize = 64;

// === impl Origin ===

impl Origin {
    /// Whether requests of the two can be one, whatever they depend on.
    pub fn agrees(&self, other: &Self) -> bool {
        let metadata = match (&self.metadata.0, &other.metadata.0) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other) || one == other,
            (one, other) => one.is_none() && other.is_none(),
        };
        metadata && self.auth == other.auth
    }
}

// === impl Origin ===

impl Origin {
    /// Bytes that are kept because the sender sent them along.
    pub(crate) fn bytes(&self) -> usize {
        let Metadata(headers) = &self.metadata;
        let headers = headers.iter().flat_map(|headers| headers.iter());
        headers.map(|(name, value)| name.as_str().len() + value.len() + HEADER).sum()
    }
}

// === impl Metadata ===

impl Metadata {
    /// Keeps these headers.
    pub fn new(headers: HeaderMap) -> Self {
        Self(Some(Arc::new(headers)))
    }

    /// The values of a key, in the order in which they came; those that are no text are left out.
    pub fn get(&self, key: &str) -> impl Iterator<Item = &str> {
        let values = self.0.iter().flat_map(move |headers| headers.get_all(key));
        values.filter_map(|value| value.to_str().ok())
    }

    /// Keys and values, those of one key in the order in which they came; values that are no text are left out.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let headers = self.0.iter().flat_map(|headers| headers.iter());
        headers.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
    }
}

impl fmt::Debug for Metadata {
    /// Names only: values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().flat_map(|headers| headers.keys())).finish()
    }
}

// === impl TraceContext ===

impl TraceContext {
    /// The context that a request's headers carry. Without a valid `traceparent` there is none, whatever
    /// `tracestate` says (section 3.3.1.1).
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut parents = headers.get_all("traceparent").iter();
        let (Some(parent), None) = (parents.next(), parents.next()) else { return None };
        let mut context: Self = parent.to_str().ok()?.parse().ok()?;
        // Several headers are one list (section 3.3.1.2).
        let states: Vec<&str> =
            headers.get_all("tracestate").iter().filter_map(|state| state.to_str().ok()).collect();
        let state = states.join(",");
        context.state = (1..=LONGEST_STATE).contains(&state.len()).then(|| state.into());
        Some(context)
    }

    /// The headers that pass it on.
    pub fn headers(&self) -> HeaderMap {
        let state =
            self.state.as_deref().map(|state| (HeaderName::from_static("tracestate"), state.to_owned()));
        let parent = (HeaderName::from_static("traceparent"), self.to_string());
        let headers = std::iter::once(parent).chain(state);
        headers.filter_map(|(name, value)| Some((name, value.parse().ok()?))).collect()
    }

    /// Whether the trace is recorded upstream.
    pub fn is_sampled(&self) -> bool {
        self.flags & 1 == 1
    }
}

/// As `traceparent` writes it, in version 00.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace, span) = (u128::from_be_bytes(self.trace_id), u64::from_be_bytes(self.span_id));
        write!(f, "00-{trace:032x}-{span:016x}-{:02x}", self.flags)
    }
}

impl FromStr for TraceContext {
    type Err = NoTraceParent;

    fn from_str(text: &str) -> Result<Self, NoTraceParent> {
        let mut parts = text.split('-');
        let mut hex = |length: usize| {
            let digits = parts.next().filter(|part| part.len() == length).ok_or(NoTraceParent)?;
            // Lower case only (section 3.2.2), which `from_str_radix` does not insist on; nor on the absence of a sign.
            let is_hex = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            is_hex.then(|| u128::from_str_radix(digits, 16).ok()).flatten().ok_or(NoTraceParent)
        };
        let (version, trace, span, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        // A later version may have more to say after what is known (section 3.2.4); 255 is no version.
        let has_more = parts.next().is_some();
        if version == 255 || (version == 0 && has_more) || trace == 0 || span == 0 {
            return Err(NoTraceParent);
        }
        // Both fit: they were written in so many digits.
        let (span_id, flags) = ((span as u64).to_be_bytes(), flags as u8);
        Ok(Self { trace_id: trace.to_be_bytes(), span_id, flags, state: None })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_read_and_written() {
        let context: TraceContext = PARENT.parse().unwrap();
        assert!(context.is_sampled());
        assert_eq!(context.to_string(), PARENT);
        let later = "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-what-the-future-holds";
        assert!(!later.parse::<TraceContext>().unwrap().is_sampled());
    }

    #[test]
    fn what_is_no_traceparent_is_told_apart() {
        for wrong in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(wrong.parse::<TraceContext>(), Err(NoTraceParent), "{wrong}");
        }
    }

    #[test]
    fn headers_carry_one_parent_and_a_list_of_states() {
        let mut headers = HeaderMap::new();
        headers.append("tracestate", "a=1".parse().unwrap());
        assert_eq!(TraceContext::from_headers(&headers), None);
        headers.append("traceparent", PARENT.parse().unwrap());
        headers.append("tracestate", "b=2".parse().unwrap());
        assert_eq!(TraceContext::from_headers(&headers).unwrap().state.as_deref(), Some("a=1,b=2"));
        let mut long = headers.clone();
        long.append("tracestate", format!("c={}", "3".repeat(512)).parse().unwrap());
        assert_eq!(TraceContext::from_headers(&long).unwrap().state, None);
        headers.append("traceparent", PARENT.parse().unwrap());
        assert_eq!(TraceContext::from_headers(&headers), None, "two parents are none");
    }
}
