//! What items are grouped under (`resource.proto`, and the containers of the three signals).

use crate::Signal;
use crate::message::Message;
use crate::view::{Attributes, LogRecordView, MetricView, Repeated, SpanView};

/// `ResourceSpans`, `ResourceMetrics` or `ResourceLogs`.
#[derive(Clone, Copy, Debug)]
pub struct ResourceGroup<'a> {
    signal: Signal,
    message: Message<'a>,
}

impl<'a> ResourceGroup<'a> {
    pub(crate) fn new(signal: Signal, message: Message<'a>) -> Self {
        Self { signal, message }
    }

    /// What the telemetry is about. Empty if absent.
    pub fn resource(&self) -> ResourceView<'a> {
        self.message.child(1)
    }

    /// The scope groups.
    pub fn scopes(&self) -> impl Iterator<Item = ScopeGroup<'a>> + Clone + use<'a> {
        let signal = self.signal;
        self.message.list::<Message<'a>>(2).map(move |message| ScopeGroup::new(signal, message))
    }

    /// The schema of the resource.
    pub fn schema_url(&self) -> &'a str {
        self.message.text(3)
    }
}

view! {
    /// The entity that produced the telemetry (`Resource`).
    ResourceView {
        /// The resource's attributes.
        attributes: Attributes<'a> = attributes(1);
        /// How many attributes the sender left out.
        dropped_attributes_count: u32 = uint32(2);
        /// The entities the resource is made of.
        entity_refs: Repeated<'a, EntityRefView<'a>> = list(3);
    }
}

view! {
    /// A reference to an entity whose attributes are the resource's (`EntityRef`).
    EntityRefView {
        /// The schema of the entity.
        schema_url: &'a str = text(1);
        /// The kind of entity, as `service`.
        entity_type: &'a str = text(2);
    }
}

impl<'a> EntityRefView<'a> {
    /// The keys of the resource attributes that identify the entity.
    pub fn id_keys(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        texts(self.0, 3)
    }

    /// The keys of the resource attributes that describe the entity.
    pub fn description_keys(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        texts(self.0, 4)
    }
}

fn texts(message: Message<'_>, number: u32) -> impl Iterator<Item = &str> {
    let values =
        message.fields().filter(move |field| field.number == number).filter_map(|field| field.bytes());
    values.map(|text| std::str::from_utf8(text).unwrap_or_default())
}

/// `ScopeSpans`, `ScopeMetrics` or `ScopeLogs`.
#[derive(Clone, Copy, Debug)]
pub struct ScopeGroup<'a> {
    signal: Signal,
    message: Message<'a>,
}

impl<'a> ScopeGroup<'a> {
    pub(crate) fn new(signal: Signal, message: Message<'a>) -> Self {
        Self { signal, message }
    }

    /// The instrumentation scope. Empty if absent.
    pub fn scope(&self) -> ScopeView<'a> {
        self.message.child(1)
    }

    /// The schema of the items.
    pub fn schema_url(&self) -> &'a str {
        self.message.text(3)
    }

    /// The spans; none where the signal is another.
    pub fn spans(&self) -> Repeated<'a, SpanView<'a>> {
        self.elements(Signal::Traces)
    }

    /// The metrics; none where the signal is another.
    pub fn metrics(&self) -> Repeated<'a, MetricView<'a>> {
        self.elements(Signal::Metrics)
    }

    /// The log records; none where the signal is another.
    pub fn log_records(&self) -> Repeated<'a, LogRecordView<'a>> {
        self.elements(Signal::Logs)
    }

    fn elements<V>(&self, signal: Signal) -> Repeated<'a, V> {
        if signal == self.signal { self.message.list(2) } else { Repeated::none() }
    }
}

view! {
    /// The library that produced the telemetry (`InstrumentationScope`).
    ScopeView {
        /// The scope's name, as a library or package.
        name: &'a str = text(1);
        /// The scope's version.
        version: &'a str = text(2);
        /// The scope's attributes.
        attributes: Attributes<'a> = attributes(3);
        /// How many attributes the sender left out.
        dropped_attributes_count: u32 = uint32(4);
    }
}
