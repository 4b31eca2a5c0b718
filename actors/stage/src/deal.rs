//! The way into a stage whose copies have shares of the traces: each message's spans are dealt out to those they
//! belong to.
//!
//! A dealer stands on each lane. It hands a message on in as few parts as there are copies that have spans in it; they
//! owe the message together. Room is reserved for all of them, in an order that is the same on every lane, before any
//! is sent.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, LazyLock};

use futures_util::FutureExt as _;
use tokio::time::Instant;
use watershed_delivery::{Cause, Outcome};
use watershed_supervise::{Cell, Launch, Lease, Next, NoRoom, Room, Ticket};
use watershed_telemetry::Payload;
use watershed_telemetry::sheaf;

use crate::message::{Message, weight_of};
use crate::registry::Env;
use crate::route::{Switch, Way, by_deadline};

/// What a dealer needs.
struct Dealer {
    env: Env,
    shards: Arc<[Cell<Message>]>,
    /// The way on from the stage: what ends before it is booked there.
    behind: Switch<Way>,
}

/// Deals to the copies of the stage that `env` describes; `behind` it is the next one.
pub fn deal(env: Env, shards: Arc<[Cell<Message>]>, behind: Switch<Way>) -> Launch<Message> {
    Arc::new(move |lease| {
        let (env, shards, behind) = (env.clone(), shards.clone(), behind.clone());
        async move {
            Dealer { env, shards, behind }.run(lease).await;
            Ok(())
        }
        .boxed_local()
    })
}

/// Which of so many copies has the trace, for as long as the process lives. Ids may be chosen by who sends, so the choice is not for them to foresee.
pub fn shard_of(trace: &[u8], shards: usize) -> usize {
    static KEY: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0) | 1);
    let half = |bytes: &[u8]| bytes.first_chunk().map_or(0, |half| u64::from_le_bytes(*half));
    let (low, high) = (half(trace), half(trace.get(8..).unwrap_or_default()));
    let folded = u128::from(low ^ *KEY).wrapping_mul(u128::from(high ^ KEY.rotate_left(32)) | 1);
    let mixed = (folded ^ folded >> 64) as u64;
    // The high part of a product: as even as a remainder, and cheaper.
    ((u128::from(mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15)) * shards as u128) >> 64) as usize
}

// === impl Dealer ===

impl Dealer {
    async fn run(self, mut lease: Lease<Message>) {
        lease.started();
        loop {
            tokio::task::coop::consume_budget().await;
            match lease.next().await {
                Next::Mail(ticket) => self.hand_on(ticket, &lease).await,
                Next::Control(_) => {}
                Next::Drained => return,
            }
        }
    }

    async fn hand_on(&self, ticket: Ticket, lease: &Lease<Message>) {
        let look = |mail: &Message| (mail.payload.clone(), mail.guard.deadline().map(Instant::from_std));
        let Some((payload, deadline)) = lease.with(&ticket, look) else { return };
        let items = payload.items();
        let dealt = {
            let _busy = lease.busy();
            sheaf::deal(&payload, self.shards.len(), |trace| shard_of(trace, self.shards.len()))
        };
        let parts: Vec<(&Cell<Message>, Payload)> =
            self.shards.iter().zip(dealt).filter_map(|(shard, part)| Some((shard, part?))).collect();
        let late = || self.behind.look(|way| way.late(items));
        let rooms = by_deadline(deadline, reserve(&parts, lease), late).await;
        let rooms = match rooms {
            _ if lease.is_withdrawn(&ticket) => Err(Outcome::refused(Cause::Withdrawn, "its sender is gone")),
            rooms => rooms,
        };
        let rooms = match rooms {
            Ok(rooms) => rooms,
            Err(refusal) => {
                self.behind.look(|way| way.ended(items, &refusal));
                return lease.finish(ticket, refusal);
            }
        };
        let Some(taken) = lease.take(ticket) else { return };
        let (Message { context, guard, permit, payload, .. }, room) = taken.into_parts();
        if parts.is_empty() {
            return guard.resolve(Outcome::Delivered);
        }
        let guards = guard.split(parts.len());
        for (((_, part), room), guard) in parts.into_iter().zip(rooms).zip(guards) {
            let whole = part.items() == payload.items();
            let permit = if whole { permit.clone() } else { self.env.budget.overdraw(part.bytes() as u64) };
            room.send(Message { payload: part, context: context.clone(), guard, permit, charge: None });
        }
        drop(room);
    }
}

/// Room in each of these cells for its part.
async fn reserve(
    parts: &[(&Cell<Message>, Payload)],
    lease: &Lease<Message>,
) -> Result<Vec<Room<Message>>, Outcome> {
    let mut rooms = Vec::with_capacity(parts.len());
    for (cell, part) in parts {
        let weight = weight_of(part);
        let room = match cell.try_reserve(weight) {
            Err(NoRoom::Full) => {
                let since = Instant::now();
                let room = cell.reserve(weight).await;
                lease.cell().add_blocked(since.elapsed());
                room
            }
            room => room,
        };
        let down = |closed| Outcome::refused(Cause::Failure, format!("{}: {closed}", cell.name()));
        rooms.push(room.map_err(down)?);
    }
    Ok(rooms)
}
