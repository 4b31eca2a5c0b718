//! The scenarios, one idea each.

mod branches;
mod damage;
mod disk_full;
mod gateways;
mod kill;
mod lies;
mod outage;
mod overload;
mod panics;
mod partition;
mod rolling;
mod sampling;
mod scale;
mod shutdown;
mod soak;
mod stop;
mod tail;

use crate::scenario::Scenario;

/// Every scenario.
pub const ALL: &[Scenario] = &[
    kill::SCENARIO,
    stop::SCENARIO,
    lies::SCENARIO,
    disk_full::SCENARIO,
    damage::SCENARIO,
    panics::SCENARIO,
    outage::SCENARIO,
    shutdown::SCENARIO,
    branches::SCENARIO,
    overload::SCENARIO,
    tail::SCENARIO,
    gateways::SCENARIO,
    rolling::SCENARIO,
    scale::SCENARIO,
    sampling::SCENARIO,
    partition::SCENARIO,
    soak::SCENARIO,
];

/// The scenario of this name.
pub fn find(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name == name)
}
