//! One exporter to several backends that stand for each other.
//!
//! A balancer has one exporter for each of its backends, and gives each of them what belongs to it: by a key, so that a
//! trace stays whole, or in turn. Which backends there are is for resolvers to say, and which of them work for health
//! checks. What is spoken to them is for a family of exporters to bring: it implements [`Backends`].

mod balance;
mod health;
mod key;
mod meters;
mod plan;
mod pool;
mod probe;
mod resolver;
mod ring;
mod turns;

pub use balance::Balancer;
pub use health::{HealthSettings, ProbeKind};
pub use key::RoutingKey;
pub use plan::{Backends, Plan, Policy};
pub use probe::Caller;
pub use resolver::{ResolverSettings, endpoint};
pub use ring::{Kind as RingKind, shares};
