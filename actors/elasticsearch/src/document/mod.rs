//! Documents: what a request becomes in a `_bulk` body, straight from its wire bytes.
//!
//! The documents of a request are numbered. What they are depends on nothing but its bytes, the settings and the
//! request's mapping mode, so a number names the same document at each attempt.

mod bulk;
mod ecs;
mod entries;
mod json;
mod layout;
mod metrics;
mod otel;
mod plain;
mod route;

use std::cell::OnceCell;
use std::rc::Rc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use watershed_telemetry::view::{
    Attributes, LogRecordView, ResourceGroup, ResourceView, ScopeGroup, ScopeView, SpanView,
};
use watershed_telemetry::{Payload, Signal};

pub use self::bulk::{Bulk, Document, Flaw};
use self::bulk::{Full, Items, Page};
use self::entries::Rendered;
use self::json::Out;
use self::route::{Hints, Route, Says};

/// Year, month and day, in UTC, of a time in nanoseconds since 1970.
pub fn date(nanos: u64) -> (u64, u64, u64) {
    json::civil(nanos / 86_400_000_000_000)
}

/// What documents look like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// As Elasticsearch's own templates for OpenTelemetry want it.
    #[default]
    Otel,
    /// Elastic Common Schema: known attributes under its names, keys nested.
    Ecs,
    /// The fields of the OpenTelemetry data model, flat.
    None,
    /// As `none`, with attributes and events at the top.
    Raw,
    /// The body of a log record, which has to be a map, and nothing else.
    Bodymap,
}

/// How documents are made.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// What they look like where nobody says.
    pub mode: Mode,
    /// What may be asked for.
    pub allowed: Vec<Mode>,
    /// Where they go, in the order of [`Signal::ALL`], whatever the attributes say.
    pub indices: [Option<String>; 3],
    /// Whether `elasticsearch.document_id` of a log record is its document's id.
    pub logs_dynamic_id: bool,
    /// The same for spans.
    pub traces_dynamic_id: bool,
    /// Whether `elasticsearch.ingest_pipeline` of a log record is its document's pipeline.
    pub dynamic_pipeline: bool,
    /// Whether logs and spans without an id get one that is made of their content.
    pub content_ids: bool,
    /// Whether documents may only go to data streams; unless told, those of mode `otel`.
    pub require_data_stream: Option<bool>,
    /// The destination is OpenSearch, which knows neither `require_data_stream` nor `dynamic_templates`.
    pub opensearch: bool,
}

/// Writes documents of one batch.
pub struct Scribe<'p> {
    /// How.
    pub plan: &'p Plan,
    /// In which mode, where a scope says nothing else.
    pub mode: Mode,
    /// What names of indices (not of data streams) end with.
    pub date_suffix: String,
    /// The largest body, in bytes; a single document may be larger.
    pub max_bytes: usize,
}

/// What the scopes of a resource have in common. There may be a resource as large as a request, and very many scopes that
/// write nothing: so whatever is made of it is made once, and only for a document.
struct Around<'a> {
    group: ResourceGroup<'a>,
    resource: ResourceView<'a>,
    hints: OnceCell<Hints<'a>>,
    /// `,"resource":{...}` in mode `otel`.
    tail: OnceCell<Out>,
    /// What it says in mode `ecs`: what a scope may say otherwise, and what it may not.
    ecs: OnceCell<[Rendered; 2]>,
    /// The same in modes `none` and `raw`.
    plain: OnceCell<Rendered>,
}

/// What the items of a scope have in common.
struct Place<'a> {
    signal: Signal,
    mode: Result<Mode, Flaw>,
    around: Rc<Around<'a>>,
    scopes: ScopeGroup<'a>,
    scope: ScopeView<'a>,
    hints: OnceCell<Hints<'a>>,
    common: OnceCell<Common>,
}

/// What all documents of a scope have.
struct Common {
    route: Route,
    /// Where events of spans go.
    event_route: Route,
    /// `,"resource":{...},"scope":{...}` in mode `otel`.
    tail: Out,
    /// What resource and scope say, in the other modes.
    shared: Rendered,
}

// === impl Mode ===

impl Mode {
    /// The mode of this name, in any case of letters.
    pub fn named(name: &str) -> Option<Self> {
        let all = [
            ("otel", Self::Otel),
            ("ecs", Self::Ecs),
            ("none", Self::None),
            ("raw", Self::Raw),
            ("bodymap", Self::Bodymap),
        ];
        all.iter().find(|(known, _)| name.eq_ignore_ascii_case(known)).map(|(_, mode)| *mode)
    }
}

// === impl Plan ===

impl Plan {
    fn index(&self, signal: Signal) -> Option<&str> {
        let [traces, metrics, logs] = &self.indices;
        match signal {
            Signal::Traces => traces.as_deref(),
            Signal::Metrics => metrics.as_deref(),
            Signal::Logs => logs.as_deref(),
        }
    }

    fn requires_data_stream(&self, mode: Mode) -> bool {
        self.require_data_stream.unwrap_or(mode == Mode::Otel) && !self.opensearch
    }

    fn dynamic_id(&self, signal: Signal) -> bool {
        match signal {
            Signal::Logs => self.logs_dynamic_id,
            Signal::Traces => self.traces_dynamic_id,
            Signal::Metrics => false,
        }
    }
}

// === impl Scribe ===

impl Scribe<'_> {
    /// Appends the documents of `part`, which is one request, from number `from` on and without those that are done,
    /// until the body is full; then the number of the first that is not in it.
    pub fn write(
        &self,
        part: &Payload,
        from: u32,
        is_done: &dyn Fn(u32) -> bool,
        bulk: &mut Bulk,
    ) -> Option<u32> {
        let mut page = Page::new(bulk, from, is_done, self.max_bytes);
        self.request(part, &mut page).err().map(|Full(number)| number)
    }

    fn request(&self, part: &Payload, page: &mut Page<'_>) -> Result<(), Full> {
        let signal = part.signal();
        for group in part.resources() {
            let around = Rc::new(Around::new(group));
            for scopes in group.scopes() {
                let place = self.place(signal, around.clone(), scopes);
                match signal {
                    Signal::Logs => scopes.log_records().try_for_each(|log| self.log(&place, log, page))?,
                    Signal::Traces => scopes.spans().try_for_each(|span| self.span(&place, span, page))?,
                    Signal::Metrics => self.metrics(&place, page)?,
                }
            }
        }
        Ok(())
    }

    fn place<'a>(&self, signal: Signal, around: Rc<Around<'a>>, scopes: ScopeGroup<'a>) -> Place<'a> {
        let scope = scopes.scope();
        let mode = match scope.attributes().find(route::MODE).and_then(|mode| mode.as_str()) {
            None => Ok(self.mode),
            Some(name) => {
                let named = Mode::named(name).filter(|mode| self.plan.allowed.contains(mode));
                named.ok_or(Flaw::Mode)
            }
        };
        let mode = mode.and_then(|mode| match (mode, signal) {
            (Mode::Otel | Mode::Ecs, _) | (Mode::None | Mode::Raw, Signal::Traces) | (_, Signal::Logs) => {
                Ok(mode)
            }
            _ => Err(Flaw::Signal),
        });
        Place { signal, mode, around, scopes, scope, hints: OnceCell::new(), common: OnceCell::new() }
    }

    /// What all documents of a scope have, of which this is one, in that mode.
    fn common<'p>(&self, place: &'p Place<'_>, mode: Mode) -> &'p Common {
        place.common.get_or_init(|| {
            let is_otel = mode == Mode::Otel;
            let has_events = is_otel && place.signal == Signal::Traces;
            let route = |signal| Route::of(self, mode, signal, place.says(None));
            Common {
                route: route(place.signal),
                event_route: if has_events { route(Signal::Logs) } else { Route::default() },
                tail: if is_otel { otel::tail(place) } else { Out::new() },
                shared: match mode {
                    Mode::Ecs => ecs::shared(place),
                    Mode::None | Mode::Raw => plain::shared(place),
                    Mode::Otel | Mode::Bodymap => Rendered::default(),
                },
            }
        })
    }

    fn log(&self, place: &Place<'_>, log: LogRecordView<'_>, page: &mut Page<'_>) -> Result<(), Full> {
        let item = page.item();
        page.put(Items::One(item), |out, layouts| {
            let attributes = log.attributes();
            match place.mode? {
                Mode::Otel => self.create(out, place, Signal::Logs, attributes, |out, common, route| {
                    Ok(otel::log(out, common, route, log))
                }),
                Mode::Ecs => self.create(out, place, Signal::Logs, attributes, |out, common, route| {
                    Ok(ecs::log(out, layouts, common, route, log))
                }),
                Mode::Bodymap => {
                    self.create(out, place, Signal::Logs, attributes, |out, _, _| plain::body(out, log))
                }
                mode => self.create(out, place, Signal::Logs, attributes, |out, common, _| {
                    Ok(plain::log(out, layouts, common, log, mode))
                }),
            }
        })
    }

    /// A span, and in mode `otel` its events after it, as documents of their own among the logs.
    fn span(&self, place: &Place<'_>, span: SpanView<'_>, page: &mut Page<'_>) -> Result<(), Full> {
        let item = page.item();
        page.put(Items::One(item), |out, layouts| {
            let attributes = span.attributes();
            match place.mode? {
                Mode::Otel => self.create(out, place, Signal::Traces, attributes, |out, common, route| {
                    Ok(otel::span(out, common, route, span))
                }),
                Mode::Ecs => self.create(out, place, Signal::Traces, attributes, |out, common, route| {
                    Ok(ecs::span(out, layouts, common, route, span))
                }),
                mode => self.create(out, place, Signal::Traces, attributes, |out, common, _| {
                    Ok(plain::span(out, layouts, common, span, mode))
                }),
            }
        })?;
        if place.mode != Ok(Mode::Otel) {
            return Ok(());
        }
        span.events().try_for_each(|event| {
            page.put(Items::One(item), |out, _| {
                self.create(out, place, Signal::Logs, event.attributes(), |out, common, route| {
                    Ok(otel::event(out, common, route, span, event))
                })
            })
        })
    }

    /// Writes action and source of a document of `signal`, whose source `write` writes; whether it has an id.
    ///
    /// Most items say nothing of where they go, and `write` finds that out as it writes their attributes: only those
    /// that do are written again.
    fn create(
        &self,
        out: &mut Out,
        place: &Place<'_>,
        signal: Signal,
        attributes: Attributes<'_>,
        mut write: impl FnMut(&mut Out, &Common, &Route) -> Result<bool, Flaw>,
    ) -> Result<bool, Flaw> {
        let mode = place.mode?;
        let common = self.common(place, mode);
        let route = if signal == place.signal { &common.route } else { &common.event_route };
        let start = out.len();
        let mut has_id = self.open(out, route, None);
        let mut source = out.len();
        if write(out, common, route)? {
            out.truncate(start);
            let route = Route::of(self, mode, signal, place.says(Some(attributes)));
            has_id = self.open(out, &route, Some((signal, attributes)));
            source = out.len();
            write(out, common, &route)?;
        }
        out.extend_from_slice(b"}\n");
        if has_id == Id::Content {
            sign(out, source);
        }
        Ok(has_id != Id::None)
    }

    /// Writes an action's line.
    fn open(&self, out: &mut Out, route: &Route, own: Option<(Signal, Attributes<'_>)>) -> Id {
        out.extend_from_slice(&route.action);
        let has_own = own.is_some_and(|(signal, attributes)| route::own(out, self.plan, signal, attributes));
        let id = match (has_own, self.plan.content_ids) {
            (true, _) => Id::Own,
            (false, true) => Id::Content,
            (false, false) => Id::None,
        };
        if id == Id::Content {
            json::raw(out, ",\"_id\":\"");
            out.resize(out.len() + CONTENT_ID, b'-');
            out.push(b'"');
        }
        json::raw(out, "}}\n");
        id
    }
}

/// Whose id a document has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Id {
    /// Elasticsearch's.
    None,
    /// Its sender's.
    Own,
    /// One that is made of its content.
    Content,
}

/// The length of such an id: 120 bits.
const CONTENT_ID: usize = 20;

/// Puts the id that is made of the document's own bytes, from `source` to the end, into the action before it.
fn sign(out: &mut Out, source: usize) {
    let (action, document) = out.split_at_mut(source);
    let digest = Sha256::digest(document);
    let mut id = [0; CONTENT_ID];
    let engine = &base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let written = digest.get(..CONTENT_ID * 3 / 4);
    let written = written.and_then(|digest| base64::Engine::encode_slice(engine, digest, &mut id).ok());
    // Before `"}}` and the line's end.
    let end = action.len().saturating_sub("\"}}\n".len());
    if written == Some(CONTENT_ID)
        && let Some(place) = action.get_mut(end.saturating_sub(CONTENT_ID)..end)
    {
        place.copy_from_slice(&id);
    }
}

// === impl Around ===

impl<'a> Around<'a> {
    fn new(group: ResourceGroup<'a>) -> Self {
        Self {
            group,
            resource: group.resource(),
            hints: OnceCell::new(),
            tail: OnceCell::new(),
            ecs: OnceCell::new(),
            plain: OnceCell::new(),
        }
    }
}

// === impl Place ===

impl<'a> Place<'a> {
    /// Who may say where a document goes: its item, if it has anything to say, then whoever it is of.
    fn says<'s>(&'s self, item: Option<Attributes<'s>>) -> Says<'s> {
        let hints = *self.hints.get_or_init(|| {
            let of_resource = || Hints::of(self.around.resource.attributes(), Hints::default());
            let below = *self.around.hints.get_or_init(of_resource);
            Hints::of(self.scope.attributes(), below).or_of_scope(self.scope.name())
        });
        Says { item, hints }
    }
}
