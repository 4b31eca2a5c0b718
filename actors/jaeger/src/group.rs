//! Spans by process and scope: OTLP says both once for all spans of one, Jaeger with each batch and each span.

use std::collections::HashMap;

use watershed_telemetry::build::{NoRoom, Output};

use crate::decode::DecodeError;
use crate::span::Scope;

/// What a group takes beside its entry, about.
const GROUP: usize = 256;

/// The spans of a request, of which `P` is a process and `S` a span, both as they were found.
pub(crate) struct Groups<'a, P, S> {
    /// Processes by the bytes that tell them apart.
    processes: HashMap<&'a [u8], u32>,
    /// Processes by where their bytes lie: those of a batch are hashed once.
    by_address: HashMap<(usize, usize), u32>,
    by_process: Vec<P>,
    groups: HashMap<(u32, Scope<'a>), u32>,
    scopes: Vec<Scope<'a>>,
    /// With the group that each span belongs to: its process, and its scope.
    spans: Vec<(Place, S)>,
    /// Where the last span went, which is where most go.
    last: Option<(&'a [u8], Scope<'a>, Place)>,
    /// What is held, in bytes.
    held: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    process: u32,
    scope: u32,
}

impl<'a, P, S> Groups<'a, P, S> {
    pub(crate) fn new() -> Self {
        Self {
            processes: HashMap::new(),
            by_address: HashMap::new(),
            by_process: Vec::new(),
            groups: HashMap::new(),
            scopes: Vec::new(),
            spans: Vec::new(),
            last: None,
            held: 0,
        }
    }

    /// Adds a span; `identity` are bytes that only one process has.
    pub(crate) fn add(
        &mut self,
        (identity, process): (&'a [u8], P),
        scope: Scope<'a>,
        span: S,
        room: &mut dyn FnMut(usize) -> bool,
    ) -> Result<(), NoRoom> {
        if self.spans.len() == self.spans.capacity() {
            let more = self.spans.capacity().max(16);
            self.hold(more * size_of::<(Place, S)>(), room)?;
            self.spans.reserve_exact(more);
        }
        let place = match self.last {
            Some((last, other, place))
                if other == scope && (std::ptr::eq(last, identity) || last == identity) =>
            {
                place
            }
            _ => self.place(identity, process, scope, room)?,
        };
        self.last = Some((identity, scope, place));
        self.spans.push((place, span));
        Ok(())
    }

    #[cold]
    fn place(
        &mut self,
        identity: &'a [u8],
        process: P,
        scope: Scope<'a>,
        room: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Place, NoRoom> {
        let at = (identity.as_ptr() as usize, identity.len());
        let known = match self.by_address.get(&at) {
            Some(known) => *known,
            None => {
                self.hold(GROUP, room)?;
                let next = self.by_process.len() as u32;
                let known = *self.processes.entry(identity).or_insert(next);
                if known == next {
                    self.by_process.push(process);
                }
                self.by_address.insert(at, known);
                known
            }
        };
        if !self.groups.contains_key(&(known, scope)) {
            self.hold(GROUP, room)?;
        }
        let next = self.scopes.len() as u32;
        let group = *self.groups.entry((known, scope)).or_insert(next);
        if group == next {
            self.scopes.push(scope);
        }
        Ok(Place { process: known, scope: group })
    }

    fn hold(&mut self, more: usize, room: &mut dyn FnMut(usize) -> bool) -> Result<(), NoRoom> {
        self.held = self.held.saturating_add(more);
        if room(self.held) { Ok(()) } else { Err(NoRoom) }
    }

    /// Writes all spans as an `ExportTraceServiceRequest`.
    pub(crate) fn write(
        mut self,
        mut out: Output<'_>,
        resource: impl Fn(&mut Output<'_>, &P) -> Result<(), DecodeError>,
        span: impl Fn(&mut Output<'_>, &S) -> Result<(), DecodeError>,
    ) -> Result<Vec<u8>, DecodeError> {
        if self.scopes.len() > 1 {
            self.spans.sort_by_key(|(place, _)| *place);
        }
        for spans in self.spans.chunk_by(|(one, _), (other, _)| one.process == other.process) {
            let Some((place, _)) = spans.first() else { continue };
            let resource_spans = out.open(1)?;
            if let Some(process) = self.by_process.get(place.process as usize) {
                resource(&mut out, process)?;
            }
            for spans in spans.chunk_by(|(one, _), (other, _)| one.scope == other.scope) {
                let Some((place, _)) = spans.first() else { continue };
                let scope_spans = out.open(2)?;
                if let Some(scope) = self.scopes.get(place.scope as usize) {
                    scope.write(&mut out)?;
                }
                for (_, found) in spans {
                    let open = out.open(2)?;
                    span(&mut out, found)?;
                    out.close(open)?;
                }
                out.close(scope_spans)?;
            }
            out.close(resource_spans)?;
        }
        Ok(out.finish()?)
    }
}
