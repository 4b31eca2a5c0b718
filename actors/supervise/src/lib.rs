//! Queues that outlive the actors that serve them, and the supervisor that restarts those actors.
//!
//! An actix mailbox does not bound, an actix supervisor does not survive a panic, and a panic that reaches a
//! task boundary takes the queue with it. So the parts that must last are kept apart from the part that may
//! break:
//!
//! * a [`Cell`] is the fixed thing: an address, a bounded lane of [`Mail`], the slots of what is in hand,
//!   counters and state. Senders hold cells and reserve [`Room`] before they send;
//! * an *incarnation* is one actix actor that hosts one run of a stage: a future that is lent the cell's
//!   receiving half as a [`Lease`], and polled where a panic is caught;
//! * the [`Supervisor`] is an actix actor that starts incarnations, drains them, and decides what follows when
//!   one ends: another at once, another after a while, an open circuit, or the end of the pipeline.
//!
//! What was in hand when an incarnation broke is handed out again, one message at a time, until it is finished
//! or convicted; only the tear-down of a cell turns unresolved messages into refusals.
//!
//! # What can not be saved
//!
//! `panic = "abort"`, a stack overflow, an endless loop without an await, and a second panic while the first is
//! still unwinding: a value whose `Drop` panics must not be owned by a frame that a panic unwinds through. Run
//! such handlers inside [`caught`], which ends the unwinding before the owner of the stage is dropped.
//!
//! Nothing here knows what a message is about.

mod cell;
mod failure;
mod incarnation;
mod lane;
mod lease;
mod mail;
mod observe;
mod quota;
mod recovery;
mod restart;
mod root;
mod supervisor;
mod watchdog;

pub use cell::{Cell, NoRoom, Reserve, Room};
pub use failure::{Failure, caught};
pub use incarnation::Launch;
pub use lease::{Busy, Control, Lease, Next, Taken, Ticket};
pub use mail::{Mail, Weight};
pub use observe::{Exit, LastFailure, Observation, Restarts, State};
pub use quota::{Grant, Limits, Quota};
pub use restart::{Policy, Restart};
pub use supervisor::{ChildId, ChildSpec, DrainReport, Event, Health, Supervisor};
pub use watchdog::Watchdog;
