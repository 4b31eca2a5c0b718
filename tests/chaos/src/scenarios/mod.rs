//! The scenarios, one idea each.

mod branches;
mod damage;
mod disk_full;
mod kill;
mod lies;
mod outage;
mod overload;
mod panics;
mod shutdown;
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
];

/// The scenario of this name.
pub fn find(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name == name)
}
