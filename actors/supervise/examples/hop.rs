//! What one hop costs: reserve, send, next, take, on one thread.
//!
//! `cargo run --release -p watershed-supervise --example hop`

use std::hint::black_box;

use futures_util::FutureExt;
use tokio::time::Instant;
use watershed_delivery::Outcome;
use watershed_supervise::{Cell, Limits, Mail, Next, Quota, Weight};

const ROUNDS: u32 = 2_000_000;

/// As large as a message is: a payload by reference, a guard, a permit, a context.
struct Parcel([u64; 16]);

impl Mail for Parcel {
    fn weight(&self) -> Weight {
        Weight { requests: 1, items: 100, bytes: 10_000 }
    }

    fn is_withdrawn(&self) -> bool {
        false
    }

    fn bisect(self) -> Result<(Self, Self), Self> {
        Err(self)
    }

    fn settle(self, _: Outcome) {
        black_box(self.0);
    }
}

fn main() {
    let limits = Limits { requests: Some(1_000), items: Some(1_000_000), bytes: Some(64 << 20) };
    let cell = Cell::new("hop", Quota::new(limits));
    let mut lease = cell.lend();
    for depth in [1, 64] {
        let start = Instant::now();
        for _ in 0..ROUNDS / depth {
            for _ in 0..depth {
                let parcel = Parcel([7; 16]);
                if let Some(Ok(room)) = cell.reserve(parcel.weight()).now_or_never() {
                    room.send(parcel);
                }
            }
            for _ in 0..depth {
                if let Some(Next::Mail(ticket)) = lease.next().now_or_never() {
                    let _busy = lease.busy();
                    black_box(lease.with(&ticket, |parcel| parcel.0[3]));
                    lease.finish(ticket, Outcome::Delivered);
                }
            }
        }
        let nanos = start.elapsed().as_nanos() / u128::from(ROUNDS);
        println!("{depth:>3} queued: {nanos} ns a hop ({} handled)", cell.observe().handled);
    }
}
