//! Kinds by name: what a configuration may ask for, and how its settings become a stage.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use schemars::{JsonSchema, Schema};
use serde::de::DeserializeOwned;
use watershed_delivery::{Budget, Cause, Exhausted, Fault, Outcome};
use watershed_supervise::{Failure, Launch};
use watershed_telemetry::Signal;

use crate::exporter::{Exporter, ExporterParts, Sending};
use crate::extension::{Extension, ExtensionSpec, Extensions, Notes, Reference};
use crate::message::{Message, Request};
use crate::metrics::Metrics;
use crate::own::Tracing;
use crate::processor::Processor;
use crate::read::read;
use crate::receiver::{DatagramListener, Listener, Receiver, ReceiverParts};
use crate::route::{Switch, Way};
use crate::settings::BatchSettings;
use crate::shelf::Shelf;

/// The kinds an engine knows, by type name. otelcol's other spellings of a name are aliases.
#[derive(Clone, Default)]
pub struct Registry {
    receivers: Kinds<dyn ReceiverSpec>,
    processors: Kinds<dyn ProcessorSpec>,
    exporters: Kinds<dyn ExporterSpec>,
    extensions: Kinds<dyn ExtensionSpec>,
}

/// Settings of a kind: read from TOML, then checked as a whole.
///
/// Use `#[serde(deny_unknown_fields)]`, and none of `tag`, `untagged` and `flatten`: they lose the key that an
/// error belongs to. The documentation of the keys is generated from the schema: the first paragraph of each field's,
/// and the defaults of what can be serialised. A key that only `check` asks for is marked
/// `#[schemars(extend("x-required" = true))]`.
pub trait Settings: DeserializeOwned + JsonSchema + Send + Sync + 'static {
    /// Every rule that types can not say. All violations, not only the first.
    fn check(&self) -> Vec<KeyError> {
        Vec::new()
    }

    /// The extensions that are named, so that they can be looked for before anything starts.
    fn references(&self) -> Vec<Reference> {
        Vec::new()
    }
}

/// What is wrong with one key of a component's settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct KeyError {
    /// The key, dotted, from the component's table: `sending_queue.batch.min_size`. Empty for the whole table.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// A name that is no kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// Every name that is one, aliases included.
    pub known: Vec<&'static str>,
}

/// Where copies of a stage stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// One on each lane: messages cross no core.
    Lane,
    /// One in all; messages of other lanes come to it.
    Single,
    /// One on each lane, of which each has its share of the traces: the spans of a message that belong to others are
    /// sent to them. Only for stages that handle nothing but traces.
    Keyed,
}

/// What a stage is built with.
#[derive(Clone)]
pub struct Env {
    /// The component's id, as the configuration writes it.
    pub id: Arc<str>,
    /// The pipeline a processor belongs to.
    pub pipeline: Option<Arc<str>>,
    /// The lane this copy stands on, from 0.
    pub lane: usize,
    /// How many copies of the stage there are, this one included.
    pub copies: usize,
    /// The exporters behind a processor, by id.
    pub ends: Arc<[Arc<str>]>,
    /// The memory of the role.
    pub budget: Arc<Budget>,
    /// Where to register counters.
    pub metrics: Metrics,
    /// Where spans go.
    pub tracing: Tracing,
    /// What is shared by id.
    pub extensions: Extensions,
    /// What a processor's copy must not lose by a panic.
    pub shelf: Shelf,
    /// Where a processor can note what it must remember for as long as the messages that it is given are kept on
    /// disk, if they are.
    pub notes: Option<Arc<dyn Notes>>,
}

/// Why a stage did not take a message.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Not now: the sender may try again.
    #[error("{0}")]
    Refused(Cow<'static, str>),
    /// Not ever: the message is wrong.
    #[error("{0}")]
    Rejected(Cow<'static, str>),
    /// There is no memory for what becomes of the message.
    #[error(transparent)]
    NoRoom(#[from] Exhausted),
    /// The stage itself can not go on: it is restarted, and the message handed to its successor.
    #[error("{0}")]
    Failed(Failure),
}

/// A configured receiver.
pub trait ReceiverSpec: Send + Sync {
    /// The signals it can produce.
    fn signals(&self) -> &'static [Signal];
    /// Where its copies stand.
    fn placement(&self) -> Placement;
    /// The sockets it wants, owned by the engine.
    fn listeners(&self) -> Vec<Listener>;
    /// The sockets it takes datagrams from, owned by the engine.
    fn datagrams(&self) -> Vec<DatagramListener>;
    /// The extensions it names.
    fn references(&self) -> Vec<Reference>;
    /// The stage's loop.
    fn launch(&self, parts: ReceiverParts) -> Launch<Request>;
}

/// A configured processor.
pub trait ProcessorSpec: Send + Sync {
    /// The part it plays in its pipeline.
    fn part(&self) -> Part<'_>;
}

/// A processor that handles messages.
struct Handles(Arc<dyn StageSpec>);

impl ProcessorSpec for Handles {
    fn part(&self) -> Part<'_> {
        Part::Stage(&self.0)
    }
}

/// The part a processor plays.
pub enum Part<'a> {
    /// It stands in the pipeline and handles messages.
    Stage(&'a Arc<dyn StageSpec>),
    /// It says how exporters batch what comes from this pipeline.
    Batching(&'a BatchSettings),
    /// It names the role's memory budget.
    Budget(&'a BudgetSettings),
}

/// A processor that handles messages.
pub trait StageSpec: Send + Sync {
    /// The signals it can handle.
    fn signals(&self) -> &'static [Signal];
    /// Where its copies stand.
    fn placement(&self) -> Placement;
    /// Whether it keeps messages beyond `handle`, so that an "ok" can not mean "delivered".
    fn holds(&self) -> bool;
    /// Whether it keeps messages on disk until all that is behind it has them, and says "ok" for that.
    fn keeps(&self) -> bool {
        false
    }
    /// What stages behind it in `pipeline` note beside what it keeps.
    fn notes(&self, _pipeline: &Arc<str>) -> Option<Arc<dyn Notes>> {
        None
    }
    /// Whether there is no room on that disk.
    fn is_full(&self) -> bool {
        false
    }
    /// When the oldest message came (as [`Context::arrived`](crate::Context::arrived)) that it keeps of `pipeline`, or
    /// of an exporter's queue, and that somebody is still owed; `None` where there is none.
    fn owes(&self, _pipeline: Option<&Arc<str>>) -> Option<u64> {
        None
    }
    /// Called when everything else has ended that it keeps messages for, those of `pipeline` or of its role: what is
    /// known should be on the disk when this returns. How many of them are left although it was to end empty, since
    /// there may be no next process that goes on with them.
    fn close(&self, _pipeline: Option<&Arc<str>>) -> u64 {
        0
    }
    /// The stage's loop.
    fn launch(self: Arc<Self>, env: Env, onward: Switch<Way>) -> Launch<Message>;
}

/// A configured exporter.
pub trait ExporterSpec: Send + Sync {
    /// The signals it can take.
    fn signals(&self) -> &'static [Signal];
    /// Where its copies stand.
    fn placement(&self) -> Placement;
    /// The sockets it wants, owned by the engine.
    fn listeners(&self) -> Vec<Listener<()>> {
        Vec::new()
    }
    /// Queue, batching, retries and timeout.
    fn sending(&self) -> Sending;
    /// The extensions it names.
    fn references(&self) -> Vec<Reference>;
    /// The stage's loop.
    fn launch(&self, parts: ExporterParts) -> Launch<Message>;
}

/// The memory of a role, as `memory_limiter` names it.
#[derive(Clone, Debug, PartialEq)]
pub struct BudgetSettings {
    /// How often the process as a whole is looked at.
    pub check_interval: Duration,
    /// The hard limit.
    pub limit: BudgetLimit,
    /// How far below the hard limit admission stops; `None` is a fifth of it.
    pub spike: Option<BudgetLimit>,
}

/// A limit in bytes, or as a part of what the machine or cgroup has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BudgetLimit {
    /// Bytes.
    Bytes(u64),
    /// Percent of the memory of the machine or cgroup.
    Percent(u32),
}

/// Type-erased kinds of one class.
struct Kinds<S: ?Sized> {
    by_name: BTreeMap<&'static str, Kind<S>>,
}

struct Kind<S: ?Sized> {
    /// The name in lists; an alias carries its kind's.
    name: &'static str,
    schema: fn() -> Schema,
    parse: fn(toml::Value) -> Result<Arc<S>, Vec<KeyError>>,
}

// === impl Registry ===

impl Registry {
    /// No kinds.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a receiver kind.
    #[must_use]
    pub fn receiver<R: Receiver>(mut self, name: &'static str, aliases: &[&'static str]) -> Self {
        self.receivers.add::<R::Settings>(name, aliases, |value| {
            Ok(Arc::new(crate::receiver::Configured::<R>(Arc::new(read(value)?))) as Arc<dyn ReceiverSpec>)
        });
        self
    }

    /// Adds a processor kind that handles messages.
    #[must_use]
    pub fn processor<P: Processor>(mut self, name: &'static str, aliases: &[&'static str]) -> Self {
        self.processors.add::<P::Settings>(name, aliases, |value| {
            let stage = crate::processor::Configured::<P>(Arc::new(read(value)?));
            Ok(Arc::new(Handles(Arc::new(stage))) as Arc<dyn ProcessorSpec>)
        });
        self
    }

    /// Adds a processor kind that brings a loop of its own.
    #[must_use]
    pub fn stage<S: Settings + Into<Arc<dyn StageSpec>>>(mut self, name: &'static str) -> Self {
        self.processors.add::<S>(name, &[], |value| {
            Ok(Arc::new(Handles(read::<S>(value)?.into())) as Arc<dyn ProcessorSpec>)
        });
        self
    }

    /// Adds a processor kind that only says how exporters batch.
    #[must_use]
    pub fn batching<S: Settings + Into<BatchSettings>>(mut self, name: &'static str) -> Self {
        struct Batching(BatchSettings);
        impl ProcessorSpec for Batching {
            fn part(&self) -> Part<'_> {
                Part::Batching(&self.0)
            }
        }
        self.processors.add::<S>(name, &[], |value| {
            Ok(Arc::new(Batching(read::<S>(value)?.into())) as Arc<dyn ProcessorSpec>)
        });
        self
    }

    /// Adds a processor kind that only names the role's memory budget.
    #[must_use]
    pub fn budget<S: Settings + Into<BudgetSettings>>(mut self, name: &'static str) -> Self {
        struct Limiting(BudgetSettings);
        impl ProcessorSpec for Limiting {
            fn part(&self) -> Part<'_> {
                Part::Budget(&self.0)
            }
        }
        self.processors.add::<S>(name, &[], |value| {
            Ok(Arc::new(Limiting(read::<S>(value)?.into())) as Arc<dyn ProcessorSpec>)
        });
        self
    }

    /// Adds an exporter kind.
    #[must_use]
    pub fn exporter<E: Exporter>(mut self, name: &'static str, aliases: &[&'static str]) -> Self {
        self.exporters.add::<E::Settings>(name, aliases, |value| {
            Ok(Arc::new(crate::exporter::Configured::<E>::new(read(value)?)) as Arc<dyn ExporterSpec>)
        });
        self
    }

    /// Adds an exporter kind that brings a loop of its own.
    #[must_use]
    pub fn balancer<S: Settings + Into<Arc<dyn ExporterSpec>>>(
        mut self,
        name: &'static str,
        aliases: &[&'static str],
    ) -> Self {
        self.exporters.add::<S>(name, aliases, |value| Ok(read::<S>(value)?.into()));
        self
    }

    /// Adds an extension kind.
    #[must_use]
    pub fn extension<E: Extension>(mut self, name: &'static str, aliases: &[&'static str]) -> Self {
        self.extensions.add::<E::Settings>(name, aliases, |value| {
            Ok(Arc::new(crate::extension::Configured::<E>(Arc::new(read(value)?))) as Arc<dyn ExtensionSpec>)
        });
        self
    }

    /// The receiver kinds.
    pub fn receivers(&self) -> Vec<&'static str> {
        self.receivers.names()
    }

    /// The processor kinds.
    pub fn processors(&self) -> Vec<&'static str> {
        self.processors.names()
    }

    /// The exporter kinds.
    pub fn exporters(&self) -> Vec<&'static str> {
        self.exporters.names()
    }

    /// The extension kinds.
    pub fn extensions(&self) -> Vec<&'static str> {
        self.extensions.names()
    }

    /// A receiver of kind `name` with these settings (an empty table for defaults).
    pub fn parse_receiver(
        &self,
        name: &str,
        settings: toml::Value,
    ) -> Result<Parsed<dyn ReceiverSpec>, Unknown> {
        self.receivers.parse(name, settings)
    }

    /// A processor of kind `name` with these settings.
    pub fn parse_processor(
        &self,
        name: &str,
        settings: toml::Value,
    ) -> Result<Parsed<dyn ProcessorSpec>, Unknown> {
        self.processors.parse(name, settings)
    }

    /// An exporter of kind `name` with these settings.
    pub fn parse_exporter(
        &self,
        name: &str,
        settings: toml::Value,
    ) -> Result<Parsed<dyn ExporterSpec>, Unknown> {
        self.exporters.parse(name, settings)
    }

    /// An extension of kind `name` with these settings.
    pub fn parse_extension(
        &self,
        name: &str,
        settings: toml::Value,
    ) -> Result<Parsed<dyn ExtensionSpec>, Unknown> {
        self.extensions.parse(name, settings)
    }

    /// The other spellings of a kind's name. `class` is as in [`Registry::schema`].
    pub fn aliases(&self, class: &str, name: &str) -> Vec<&'static str> {
        match class {
            "receiver" => self.receivers.aliases(name),
            "processor" => self.processors.aliases(name),
            "exporter" => self.exporters.aliases(name),
            _ => self.extensions.aliases(name),
        }
    }

    /// The settings of a kind, as JSON Schema. `class` is `receiver`, `processor`, `exporter` or `extension`.
    pub fn schema(&self, class: &str, name: &str) -> Option<Schema> {
        match class {
            "receiver" => self.receivers.schema(name),
            "processor" => self.processors.schema(name),
            "exporter" => self.exporters.schema(name),
            _ => self.extensions.schema(name),
        }
    }
}

/// A configured component, or everything that is wrong with its settings.
pub type Parsed<S> = Result<Arc<S>, Vec<KeyError>>;

// === impl Kinds ===

impl<S: ?Sized> Kinds<S> {
    fn add<T: JsonSchema>(
        &mut self,
        name: &'static str,
        aliases: &[&'static str],
        parse: fn(toml::Value) -> Result<Arc<S>, Vec<KeyError>>,
    ) {
        for spelling in std::iter::once(&name).chain(aliases) {
            let schema = || schemars::schema_for!(T);
            self.by_name.insert(spelling, Kind { name, schema, parse });
        }
    }

    fn names(&self) -> Vec<&'static str> {
        let own = |(spelling, kind): (&&'static str, &Kind<S>)| (*spelling == kind.name).then_some(kind.name);
        self.by_name.iter().filter_map(own).collect()
    }

    fn aliases(&self, name: &str) -> Vec<&'static str> {
        let own = self.by_name.get(name).map(|kind| kind.name);
        let spellings = self.by_name.iter().filter(|(_, kind)| Some(kind.name) == own);
        spellings.map(|(spelling, _)| *spelling).filter(|spelling| Some(*spelling) != own).collect()
    }

    fn schema(&self, name: &str) -> Option<Schema> {
        self.by_name.get(name).map(|kind| (kind.schema)())
    }

    fn parse(&self, name: &str, settings: toml::Value) -> Result<Parsed<S>, Unknown> {
        match self.by_name.get(name) {
            Some(kind) => Ok((kind.parse)(settings)),
            None => Err(Unknown { known: self.by_name.keys().copied().collect() }),
        }
    }
}

// By hand: a derive would ask `S: Default + Clone` of what is only behind a function pointer.
impl<S: ?Sized> Default for Kinds<S> {
    fn default() -> Self {
        Self { by_name: BTreeMap::new() }
    }
}

impl<S: ?Sized> Clone for Kinds<S> {
    fn clone(&self) -> Self {
        let copy = |(spelling, kind): (&&'static str, &Kind<S>)| {
            (*spelling, Kind { name: kind.name, schema: kind.schema, parse: kind.parse })
        };
        Self { by_name: self.by_name.iter().map(copy).collect() }
    }
}

// === impl KeyError ===

impl KeyError {
    /// An error of the key `key`.
    pub fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { key: key.into(), message: message.into() }
    }

    /// The same error, seen from the table that holds this one under `key`.
    #[must_use]
    pub fn under(self, key: &str) -> Self {
        let key = if self.key.is_empty() { key.to_owned() } else { format!("{key}.{}", self.key) };
        Self { key, ..self }
    }
}

// === impl Error ===

impl Error {
    /// The message is wrong: it is rejected for good.
    pub fn reject(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Rejected(reason.into())
    }

    /// Not now.
    pub fn refuse(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Refused(reason.into())
    }

    /// What a message of `items` items ends as; `Err` if it is the stage that ends.
    pub(crate) fn outcome(self, items: usize) -> Result<Outcome, Failure> {
        match self {
            Self::Refused(reason) => Ok(Outcome::refused(Cause::Failure, reason)),
            Self::Rejected(reason) => Ok(Outcome::rejected(Fault::Invalid, items as u64, reason)),
            Self::NoRoom(Exhausted::ForNow) => {
                Ok(Outcome::refused(Cause::Overload, "data refused due to high memory usage"))
            }
            Self::NoRoom(exhausted @ Exhausted::ForEver) => {
                Ok(Outcome::rejected(Fault::TooLarge, items as u64, exhausted.to_string()))
            }
            Self::Failed(failure) => Err(failure),
        }
    }
}
