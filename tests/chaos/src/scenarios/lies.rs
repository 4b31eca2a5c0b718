//! A destination that acknowledges late, never, only in part, or takes what it refuses.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use watershed_testkit::grpc::Code;
use watershed_testkit::{Answer, Arrival, wait_until};

use crate::agent::PATIENCE;
use crate::dice::Dice;
use crate::outcome::Outcome;
use crate::scenario::{Pace, Run, Scenario, progress, settle, sink};
use crate::topology::{Branch, Custody};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "lies",
    about: "the destination answers late, never, in part, with every error, takes what it refuses and breaks \
            connections off; lost 0, copies only of what it took without saying so. gRPC and HTTP by turns. Seconds: \
            how long it lies in each round",
    custodies: &[Custody::Journal, Custody::Queues, Custody::Delivered],
    short: Pace { rounds: 2, seconds: 1.0, rate: 0.0 },
    long: Pace { rounds: 20, seconds: 15.0, rate: 0.0 },
    run: |run| Box::pin(all(run)),
};

/// Exports in flight at once.
const CONSUMERS: usize = 4;

/// Kinds of answers, half of them honest.
const DECK: u64 = 20;

/// An answer that takes longer than this may come too late: an attempt has twice as long.
const LATE: Duration = Duration::from_millis(500);

const PASSING: &[Code] = &[
    Code::CANCELLED,
    Code::DEADLINE_EXCEEDED,
    Code::ABORTED,
    Code::OUT_OF_RANGE,
    Code::UNAVAILABLE,
    Code::DATA_LOSS,
];
const LASTING: &[Code] = &[
    Code::UNKNOWN,
    Code::INVALID_ARGUMENT,
    Code::NOT_FOUND,
    Code::ALREADY_EXISTS,
    Code::PERMISSION_DENIED,
    Code::RESOURCE_EXHAUSTED,
    Code::FAILED_PRECONDITION,
    Code::UNIMPLEMENTED,
    Code::INTERNAL,
    Code::UNAUTHENTICATED,
];
const PASSING_HTTP: &[u16] = &[429, 502, 503, 504];
const LASTING_HTTP: &[u16] = &[400, 401, 403, 404, 413, 500, 501];

/// What was said that explains copies and losses.
#[derive(Default)]
struct Told {
    /// Items whose "ok" may not have been heard.
    doubted: AtomicU64,
    /// Items rejected by partial successes.
    partial: AtomicU64,
}

struct Liar {
    dice: Dice,
    /// What comes next, so that everything does.
    deck: Vec<u64>,
    told: Arc<Told>,
    http: bool,
    /// Whether it may refuse for good what it has not taken: lost, where nobody waits any more.
    for_good: bool,
    /// Items of the last requests: who shared a connection with this one.
    last: VecDeque<u64>,
}

impl Liar {
    fn answer(&mut self, arrival: &Arrival) -> Answer {
        self.last.push_front(arrival.items);
        self.last.truncate(CONSUMERS);
        let doubt = |items| {
            self.told.doubted.fetch_add(items, Ordering::Relaxed);
        };
        if self.deck.is_empty() {
            self.deck = self.dice.deck(DECK);
        }
        match self.deck.pop().unwrap_or_default() {
            0 => {
                let delay = self.dice.time(Duration::ZERO..4 * LATE);
                if delay > LATE {
                    doubt(arrival.items);
                }
                Answer::Slow(delay)
            }
            1 => Answer::TakeThenHang,
            2 => {
                let codes = if self.dice.one_in(2) { PASSING } else { LASTING };
                let code = self.dice.pick(codes).copied().unwrap_or(Code::UNKNOWN);
                Answer::TakeThenStatus(code, "taken all the same".into())
            }
            3 => {
                let rejected = 1 + self.dice.below(arrival.items);
                self.told.partial.fetch_add(rejected, Ordering::Relaxed);
                Answer::Partial(rejected, "not these".into())
            }
            4 => Answer::Hang,
            5 => {
                // The "ok" may go down with its connection, and with it those of the others on it.
                doubt(self.last.iter().sum());
                if self.dice.one_in(2) { Answer::AckThenClose } else { Answer::Close }
            }
            6 | 7 => self.refuse(PASSING, PASSING_HTTP),
            8 if self.for_good => self.refuse(LASTING, LASTING_HTTP),
            9 => Answer::Unavailable { retry_delay: (!self.http).then_some(Duration::from_millis(20)) },
            _ => Answer::Ok,
        }
    }

    fn refuse(&mut self, codes: &[Code], numbers: &[u16]) -> Answer {
        if self.http {
            Answer::Http(*self.dice.pick(numbers).unwrap_or(&503), Vec::new())
        } else {
            Answer::Status(*self.dice.pick(codes).unwrap_or(&Code::UNAVAILABLE), "not now".into())
        }
    }
}

async fn all(run: &Run) -> anyhow::Result<Outcome> {
    let mut dice = run.dice();
    let mut total = Outcome::default();
    for round in 0..run.pace.rounds {
        total.add(lies(run, Dice::new(dice.below(u64::MAX)), round % 2 == 1).await?);
    }
    Ok(total)
}

async fn lies(run: &Run, dice: Dice, http: bool) -> anyhow::Result<Outcome> {
    let sink = sink().await?;
    let branch = Branch::new("sink", sink.addr())
        .over_http(http)
        .timeout_ms(2 * LATE.as_millis() as u64)
        .queue("num_consumers = 4")
        .queue("batch = { flush_timeout = \"20ms\", min_size = 500, max_size = 500 }");
    let partial = format!("watershed_exporter_failed_items{{exporter=\"{}\",reason=\"partial\"", branch.id());
    let mut agent = run.agent([branch]).await?;
    let told = Arc::<Told>::default();
    let for_good = !run.custody.is_stored();
    let mut liar = Liar { dice, deck: Vec::new(), told: told.clone(), http, for_good, last: VecDeque::new() };
    sink.answer_by(move |arrival| liar.answer(arrival));
    let load = run.loader(&agent).start();
    tokio::time::sleep(run.pace.lasts()).await;
    let told_all = async || {
        let counted = agent.metrics().await.map_or(0, |metrics| metrics.sum(&partial));
        counted > 0 && sink.snapshot().requests >= DECK
    };
    let told_all = wait_until(told_all, PATIENCE).await;
    sink.answer(Answer::Ok);
    progress(&load, &agent).await?;
    let counted = agent.metrics().await?.sum(&partial);
    let (load, mut outcome) = settle(load, &sink, &mut agent).await?;
    outcome.twice_bound += sink.snapshot().denied + told.doubted.load(Ordering::Relaxed);
    let rejected = told.partial.load(Ordering::Relaxed);
    // What was said to a connection that was gone by then was not heard.
    outcome.expect(told_all && counted <= rejected, || {
        format!("{counted} of {rejected} partial rejections counted")
    });
    outcome.expect(for_good || load.refused_for_good() == 0, || format!("refused for good: {load}"));
    let protocol = if http { "HTTP" } else { "gRPC" };
    outcome.note(format!("{protocol}: {}", sink.snapshot()));
    Ok(outcome)
}
