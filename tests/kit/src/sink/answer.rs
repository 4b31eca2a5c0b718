//! What the sink does with a request.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use http::HeaderMap;
use serde::{Deserialize, Serialize};

use crate::grpc::{Code, Signal};

/// How a request is answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Takes it and says so.
    #[default]
    Ok,
    /// Takes it and says so after this time.
    Slow(Duration),
    /// Takes it and says so as soon as this is not the answer to everything any more.
    Withheld,
    /// Takes it, but lets no more than this many items a second through: answers come late, in turn.
    RateLimited {
        /// Items (spans, points, records) a second.
        spans_per_sec: u64,
    },
    /// Refuses it for now.
    Unavailable {
        /// The delay of a `RetryInfo`, if there is to be one.
        retry_delay: Option<Duration>,
    },
    /// Refuses it with this code and message.
    Status(Code, String),
    /// Answers with this HTTP status and these headers; has taken it if that is 200. Of gRPC: unavailable.
    Http(u16, Vec<(String, String)>),
    /// Takes it except for this many items, which it rejects with this message.
    Partial(u64, String),
    /// Never answers; has not taken it.
    Hang,
    /// Takes it and never says so: whoever sends again makes a copy.
    TakeThenHang,
    /// Takes it and refuses it all the same, with this code and message: whoever sends again makes a copy.
    TakeThenStatus(Code, String),
    /// Takes it, says so, and breaks off the connection with whatever else is on it.
    AckThenClose,
    /// Breaks off the connection without an answer; has not taken it.
    Close,
}

/// What a script is told about a request.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The service called.
    pub signal: Signal,
    /// Requests that came before this one.
    pub index: u64,
    /// Spans, data points or log records in it.
    pub items: u64,
    /// Numbered items, as runs of consecutive numbers, by the loader's run.
    pub numbered: Vec<(u64, Range<u64>)>,
    /// Bytes of the message, decompressed.
    pub bytes: usize,
    /// The call's `grpc-timeout`.
    pub timeout: Option<Duration>,
    /// Everything that was sent along.
    pub headers: HeaderMap,
}

pub(super) type Script = Box<dyn FnMut(&Arrival) -> Answer + Send>;

pub(super) enum Rule {
    Always(Answer),
    By(Script),
}

/// First what is queued, then the rule.
pub(super) struct Plan {
    pub queue: VecDeque<Answer>,
    pub rule: Rule,
}

impl Default for Plan {
    fn default() -> Self {
        Plan { queue: VecDeque::new(), rule: Rule::Always(Answer::Ok) }
    }
}

impl Plan {
    pub fn next(&mut self, arrival: &Arrival) -> Answer {
        match (self.queue.pop_front(), &mut self.rule) {
            (Some(answer), _) => answer,
            (None, Rule::Always(answer)) => answer.clone(),
            (None, Rule::By(script)) => script(arrival),
        }
    }
}
