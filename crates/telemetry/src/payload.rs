//! The payload of a message: validated requests, and what can be done to them without reading them.

use std::fmt;

use bytes::{Bytes, BytesMut};
use smallvec::{SmallVec, smallvec};

use crate::Signal;
use crate::count;
use crate::message::Message;
use crate::schema::Kind;
use crate::split::{self, Limit};
use crate::validate::{self, Invalid};
use crate::view::ResourceGroup;

/// One or more whole `Export*ServiceRequest`s of one signal as wire bytes.
///
/// The request messages of the three signals hold nothing but one repeated field, so requests laid end to end are
/// one request, their merge. That is what makes batching free. Cheap to clone: the bytes are shared.
#[derive(Clone)]
pub struct Payload {
    signal: Signal,
    requests: SmallVec<[Bytes; 1]>,
    items: usize,
    bytes: usize,
}

impl Payload {
    /// Checks a request from outside in one pass: tags, wire types, lengths, nesting, UTF-8, lengths of ids. See
    /// [`Flaw`](crate::Flaw) for what is refused. Whatever is accepted, any protobuf decoder accepts.
    pub fn validate(signal: Signal, request: Bytes) -> Result<Payload, Invalid> {
        let items = validate::validate(Kind::request(signal), &request)?;
        Ok(Self::from_validated(signal, smallvec![request], items))
    }

    pub(crate) fn from_validated(signal: Signal, requests: SmallVec<[Bytes; 1]>, items: usize) -> Payload {
        let bytes = requests.iter().map(Bytes::len).sum();
        Payload { signal, requests, items, bytes }
    }

    /// Which signal this is.
    pub fn signal(&self) -> Signal {
        self.signal
    }

    /// How many spans, data points (of all five kinds) or log records.
    pub fn items(&self) -> usize {
        self.items
    }

    /// The size on the wire in bytes, before compression and framing.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is no item. There may still be bytes: resources and scopes without any.
    pub fn is_empty(&self) -> bool {
        self.items == 0
    }

    /// The requests. Laid end to end they are one request.
    pub fn requests(&self) -> &[Bytes] {
        &self.requests
    }

    /// All of it as one request in contiguous bytes; copied only if there are several.
    pub fn to_bytes(&self) -> Bytes {
        match self.requests.as_slice() {
            [] => Bytes::new(),
            [request] => request.clone(),
            requests => {
                let mut joined = BytesMut::with_capacity(self.bytes);
                requests.iter().for_each(|request| joined.extend_from_slice(request));
                joined.freeze()
            }
        }
    }

    /// All parts as one payload, in order; no byte is copied. `None` if there is no part, or the signals differ.
    pub fn concat(parts: impl IntoIterator<Item = Payload>) -> Option<Payload> {
        let mut parts = parts.into_iter();
        let mut whole = parts.next()?;
        for part in parts {
            if part.signal != whole.signal {
                return None;
            }
            whole.requests.extend(part.requests);
            whole.items += part.items;
            whole.bytes += part.bytes;
        }
        Some(whole)
    }

    /// One part a request: the inverse of [`concat`](Self::concat) for payloads of one request each.
    pub fn split_requests(self) -> Vec<Payload> {
        if self.requests.len() == 1 {
            return vec![self];
        }
        let (signal, kind) = (self.signal, Kind::request(self.signal));
        let part = |request: Bytes| {
            let items = count::items(kind, Message::new(&request));
            Payload::from_validated(signal, smallvec![request], items)
        };
        self.requests.into_iter().map(part).collect()
    }

    /// Cuts into parts of at most `max_items` items (at least one), each but the last full, in order.
    ///
    /// Cuts go through resource groups, scope groups and metrics; what was cut through is repeated in each part
    /// with all it holds beside the list that is cut, unknown fields included. Uncut resource groups are not copied
    /// but shared, so a part may consist of several requests. Nothing is lost; groups and metrics without items
    /// are kept, once. All parts together hold each resource as often as it was cut, plus one.
    pub fn split_by_items(self, max_items: usize) -> Vec<Payload> {
        split::split(self, Limit { items: max_items.max(1), bytes: usize::MAX })
    }

    /// Cuts as [`split_by_items`](Self::split_by_items), into parts of at most `max_bytes`.
    ///
    /// Two things exceed the bound, alone in a part: an item that is larger with its resource and scope, and a
    /// group whose resource and scope would take more than half of each part it is cut into.
    pub fn split_by_bytes(self, max_bytes: usize) -> Vec<Payload> {
        split::split(self, Limit { items: usize::MAX, bytes: max_bytes })
    }

    /// Views of the resource groups (`ResourceSpans`, `ResourceMetrics`, `ResourceLogs`) of all requests.
    pub fn resources(&self) -> impl Iterator<Item = ResourceGroup<'_>> {
        let signal = self.signal;
        let groups = |request| Message::new(request).list::<Message<'_>>(1);
        self.requests
            .iter()
            .map(Bytes::as_ref)
            .flat_map(groups)
            .map(move |group| ResourceGroup::new(signal, group))
    }
}

/// Without the content, which may be large and is not ours to log.
impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Payload");
        debug.field("signal", &self.signal).field("requests", &self.requests.len());
        debug.field("items", &self.items).field("bytes", &self.bytes).finish()
    }
}
