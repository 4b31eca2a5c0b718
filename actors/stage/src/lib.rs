//! What a receiver, a processor and an exporter is, and the harness that runs each one under supervision.
//!
//! A kind implements one small trait ([`Receiver`], [`Processor`], [`Exporter`]) in plain `async fn`s and is
//! named in a [`Registry`]. Everything that must hold for all kinds alike lives here, once: slots and
//! redelivery, fan-out that reserves before it sends, acknowledgement, batching, retries, deadlines,
//! withdrawal and counters. No actix type is in sight, and an embedder's kinds get the same guarantees as ours.

#![allow(async_fn_in_trait, reason = "stages live on one lane: their futures need not be Send")]

// The settings macros name their types the same way inside and outside.
extern crate self as watershed_stage;

pub mod answer;
mod calls;
mod deal;
mod edge;
mod exporter;
mod extension;
mod gate;
mod hold;
mod intake;
mod message;
mod metrics;
mod network;
mod origin;
mod own;
mod processor;
mod read;
mod receiver;
mod registry;
mod route;
mod settings;
mod shelf;

pub use calls::Calls;
pub use deal::{deal, shard_of};
pub use edge::exporter_ended;
pub use exporter::{
    Batch, ExportError, Exporter, ExporterParts, Nursery, Partial, PipelineBatch, Rate, Seat, Seating,
    Sending, Tried, configured,
};
pub use extension::{
    AuthError, AuthSettings, ClientAuth, DeadLetter, Dependence, Extension, ExtensionSpec, Extensions,
    Headers, LARGEST_NOTE, Letters, Note, Notes, Pick, Provided, Reference, Role, ServerAuth, Storage,
    Unauthenticated, Unfinished,
};
pub use gate::{Denied, Gate, LimitBy, RateLimit, RateLimitSettings};
pub use hold::Hold;
pub use intake::{Intake, TurnedAway};
pub use message::{Body, Context, Message, OVERHEAD, Request, wall_clock};
pub use metrics::{Counter, Gauge, Held, Histogram, Kind, Labels, Level, Metrics, PerSignal, Reading, Value};
pub use network::{
    CompressionSetting, CorsSettings, Credentials, Door, GrpcClientSettings, GrpcServerSettings,
    HttpClientSettings, HttpServerSettings, KeepaliveClientSettings, KeepaliveServerSettings,
    TlsClientSettings, TlsServerSettings,
};
pub use origin::{Identity, Metadata, NoTraceParent, Origin, TraceContext};
pub use own::{Ended, Recording, Span, Tracer, Tracing, Work, Worker, is_hushed};
pub use processor::{Outlet, Processor};
pub use receiver::{
    DatagramListener, Listener, Open, Receiver, ReceiverParts, Security, Serve, ServeDatagrams, granted,
};
pub use registry::{
    BudgetLimit, BudgetSettings, Env, Error, ExporterSpec, KeyError, Parsed, Part, Placement, ProcessorSpec,
    ReceiverSpec, Registry, Settings, StageSpec, Unknown,
};
pub use route::{
    Ack, Branch, Downstream, Entries, Entry, LOST_ITEMS, Ledger, Switch, Tail, Way, processor_ended,
};
pub use settings::{
    BatchSettings, ByteSize, CircuitBreakerSettings, Interval, OnFull, PartitionSettings, QueueSettings,
    RetrySettings, Sizer,
};

pub use shelf::{Lent, Shelf};

pub use schemars::{self, JsonSchema};
pub use watershed_delivery as delivery;
pub use watershed_net::Stop;
pub use watershed_supervise::Failure;
pub use watershed_telemetry::{self as telemetry, Payload, Signal};
