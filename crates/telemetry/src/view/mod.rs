//! Views: lazy, borrowing, allocation-free reading of single fields.
//!
//! A view is a message's bytes. Each getter scans them for its field, so reading one field of a span costs a walk
//! over the span's tags, and reading all of them costs that many walks; what is not read costs nothing.
//!
//! Absent fields read as protobuf's defaults: zero, empty, `false`. Views never panic: on bytes that are not
//! validated a getter gives what it finds before the first flaw. Field names are those of `opentelemetry-proto`.

macro_rules! view {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $field:ident: $type:ty = $get:ident($number:literal);)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default)]
        pub struct $name<'a>(pub(super) Message<'a>);

        impl<'a> From<Message<'a>> for $name<'a> {
            fn from(message: Message<'a>) -> Self {
                Self(message)
            }
        }

        impl<'a> $name<'a> {
            $($(#[$doc])* pub fn $field(&self) -> $type { self.0.$get($number) })*
        }
    };
}

mod attributes;
mod group;
mod log;
mod metric;
mod point;
mod scalars;
mod span;

pub use attributes::{AnyValueView, Attributes, KeyValueView, Value};
pub use group::{EntityRefView, ResourceGroup, ResourceView, ScopeGroup, ScopeView};
pub use log::LogRecordView;
pub use metric::{
    ExponentialHistogramView, GaugeView, HistogramView, MetricData, MetricView, SumView, SummaryView,
};
pub use point::{
    BucketsView, ExemplarView, ExponentialHistogramPointView, HistogramPointView, Number, NumberPointView,
    PointView, QuantileView, SummaryPointView,
};
pub use span::{EventView, LinkView, SpanFields, SpanOutline, SpanView, StatusView};

use std::marker::PhantomData;

use crate::message::{Message, MessageFields};

/// The elements of a repeated message field, in order, as views.
#[derive(Clone, Copy, Debug)]
pub struct Repeated<'a, V> {
    fields: MessageFields<'a>,
    number: u32,
    view: PhantomData<fn() -> V>,
}

impl<'a, V> Repeated<'a, V> {
    pub(crate) fn new(message: Message<'a>, number: u32) -> Self {
        Self { fields: message.fields(), number, view: PhantomData }
    }

    /// No elements.
    pub(crate) fn none() -> Self {
        Self::new(Message::default(), 0)
    }
}

impl<'a, V: From<Message<'a>>> Iterator for Repeated<'a, V> {
    type Item = V;

    #[inline]
    fn next(&mut self) -> Option<V> {
        self.fields.next_message(self.number).map(|bytes| Message::new(bytes).into())
    }
}

impl<'a> Message<'a> {
    pub(crate) fn list<V>(&self, number: u32) -> Repeated<'a, V> {
        Repeated::new(*self, number)
    }

    fn attributes(&self, number: u32) -> Attributes<'a> {
        Attributes::new(*self, number)
    }
}
