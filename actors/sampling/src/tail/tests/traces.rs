//! Traces that come scattered, in disorder, late and twice.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use proptest::prelude::*;
use prost::Message as _;
use watershed_stage::{LARGEST_NOTE, Payload, Signal, Unfinished};

use super::BREAKS;
use super::rig::{self, BEGIN, Book, Rig, SECOND, failed, id, paused, payload, slow, span};
use crate::tail::decided::{Capacity, Decided};
use crate::tail::{read_note, share};

/// Errors, what takes longer than a second, and 10 % of the rest.
const THREE: &str = "
decision_wait = '4s'
policies = [
  { name = 'errors', type = 'status_code', status_code = { status_codes = ['ERROR'] } },
  { name = 'slow', type = 'latency', latency = { threshold_ms = 1000 } },
  { name = 'random', type = 'probabilistic', probabilistic = { sampling_percentage = 10 } },
]
";
const ERRORS: &str =
    "policies = [{ name = 'errors', type = 'status_code', status_code = { status_codes = ['ERROR'] } }]\n";

const SPANS: u64 = 5;

/// Whether trace number `trace` has an error, or is slow.
fn is_wanted(trace: u64) -> bool {
    trace.is_multiple_of(100) || trace % 100 == 50
}

fn made(trace: u64, number: u64) -> Span {
    match trace % 100 {
        0 if number == trace / 100 % SPANS => failed(span(trace, number)),
        50 if number == trace / 100 % SPANS => slow(span(trace, number)),
        _ => span(trace, number),
    }
}

/// What is sent: messages in order, and when each comes.
fn scattered(traces: u64, seed: u64) -> Vec<(u64, Vec<Span>)> {
    let mut random = seed | 1;
    let mut dice = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let mut spans: Vec<(u64, Span)> = Vec::new();
    for trace in 0..traces {
        // Two hundred traces begin in a second; the spans of one come within two.
        let begin = BEGIN + trace * SECOND / 200;
        for number in 0..SPANS {
            spans.push((begin + dice(2 * SECOND), made(trace, number)));
            match dice(200) {
                0 => spans.push((begin + dice(2 * SECOND), made(trace, number))),
                1 => spans.push((begin + (6 + dice(3)) * SECOND, made(trace, number))),
                _ => {}
            }
        }
    }
    spans.sort_by_key(|(at, _)| *at);
    let mut messages: Vec<(u64, Vec<Span>)> = Vec::new();
    while !spans.is_empty() {
        let soon = spans.partition_point(|(at, _)| *at <= spans[0].0 + SECOND / 2);
        let count = (1 + dice(60) as usize).min(soon);
        let part: Vec<_> = spans.drain(..count).collect();
        messages.push((part[count - 1].0, part.into_iter().map(|(_, span)| span).collect()));
    }
    // Neighbours change places.
    for at in 1..messages.len() {
        if dice(4) == 0 && messages[at].0.abs_diff(messages[at - 1].0) < SECOND / 2 {
            messages.swap(at - 1, at);
        }
    }
    messages
}

type Came = HashMap<Vec<u8>, BTreeMap<u64, usize>>;

/// Every wanted trace is there, whole; of the others a share; nothing in part, and nothing oftener than it was sent.
fn check(came: &Came, sent: &[(u64, Vec<Span>)], traces: u64, twice: usize) -> Result<(), TestCaseError> {
    let mut copies: HashMap<(Vec<u8>, u64), usize> = HashMap::new();
    for span in sent.iter().flat_map(|(_, spans)| spans) {
        let number = u64::from_be_bytes(span.span_id[..].try_into().unwrap());
        *copies.entry((span.trace_id.clone(), number)).or_default() += 1;
    }
    let whole: BTreeSet<u64> = (1..=SPANS).collect();
    for (trace, spans) in came {
        let numbers: BTreeSet<u64> = spans.keys().copied().collect();
        prop_assert_eq!(&numbers, &whole, "in part");
        for (number, times) in spans {
            prop_assert!(*times <= copies[&(trace.clone(), *number)] * twice);
        }
    }
    let wanted = (0..traces).filter(|trace| is_wanted(*trace));
    for trace in wanted.clone() {
        prop_assert!(came.contains_key(&id(trace)), "trace {} is missing", trace);
    }
    let random = came.len() - wanted.count();
    let expected = traces as f64 * 0.98 * 0.1;
    prop_assert!((random as f64 - expected).abs() < 5.0 * expected.sqrt() + 3.0, "{} of {}", random, traces);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn every_error_and_slow_trace_comes_whole_and_nothing_in_part(seed: u64, traces in 300_u64..900, kept: bool) {
        paused(async {
            let book = kept.then(Book::default);
            let mut rig = Rig::start(THREE, book.as_ref()).await;
            let sent = scattered(traces, seed);
            for (at, spans) in &sent {
                rig.send(*at, spans.clone()).await;
            }
            rig.rest().await;
            let (came, rig) = rig.end().await;
            check(&came, &sent, traces, 1)?;
            if kept {
                prop_assert_eq!(rig.ended("delivered") + rig.ended("dropped"), rig.sent);
            }
            prop_assert_eq!(rig.metric("watershed_pipeline_lost_items", ""), 0.0);
            Ok(())
        })?;
    }

    /// Whatever was held at each panic is held by the next incarnation, and what was decided is carried out once.
    #[test]
    fn a_panic_midway_loses_nothing(seed: u64, kept: bool) {
        paused(async {
            let book = kept.then(Book::default);
            let mut rig = Rig::start(THREE, book.as_ref()).await;
            let sent = scattered(600, seed);
            let places = ["before a message is taken in", "before decisions are carried out"];
            for (number, (at, spans)) in sent.iter().enumerate() {
                if number % 20 == 19 {
                    BREAKS.set(Some(places[number / 20 % 2]));
                }
                rig.send(*at, spans.clone()).await;
            }
            // The last may have to wait for its decisions.
            rig.rest().await;
            BREAKS.set(None);
            prop_assert!(rig.cell.observe().restarts.panicked >= 3);
            let (came, rig) = rig.end().await;
            check(&came, &sent, 600, 1)?;
            prop_assert_eq!(rig.metric("watershed_pipeline_lost_items", ""), 0.0);
            Ok(())
        })?;
    }

    /// One branch of two is late for some messages, which come again for it: it is given what the other is, and no
    /// trace is taken for larger than it is.
    #[test]
    fn a_branch_that_is_late_is_given_the_same_and_nothing_is_held_twice(seed: u64, late in 0_u64..8) {
        paused(async {
            // What comes late or twice makes some larger than they are, and those are not to be sampled.
            let small = "decision_wait = '4s'\npolicies = [{ name = 'small', type = 'span_count', span_count = { max_spans = 5 } }]";
            let mut rig = Rig::start(small, Some(&Book::default())).await;
            let sent = scattered(300, seed);
            let mut again: BTreeMap<(u64, usize), u64> = BTreeMap::new();
            for (number, (at, spans)) in sent.iter().enumerate() {
                let due: Vec<_> = again.range(..(*at, 0)).map(|(key, _)| *key).collect();
                for key in due {
                    let branches = again.remove(&key).unwrap();
                    let (at, spans) = &sent[key.1];
                    rig.send_record(*at, payload(vec![("orders", spans.clone())]), key.1 as u64, branches).await;
                }
                let first = [0b11, 0b01, 0b10][(seed.rotate_left(number as u32) % 3) as usize];
                if first != 0b11 {
                    again.insert((at + late * SECOND, number), 0b11 ^ first);
                }
                rig.send_record(*at, payload(vec![("orders", spans.clone())]), number as u64, first).await;
            }
            for ((_, number), branches) in again {
                let (at, spans) = &sent[number];
                rig.send_record(*at, payload(vec![("orders", spans.clone())]), number as u64, branches).await;
            }
            rig.rest().await;
            let mut copies: HashMap<(Vec<u8>, Vec<u8>), usize> = HashMap::new();
            for span in sent.iter().flat_map(|(_, spans)| spans) {
                *copies.entry((span.trace_id.clone(), span.span_id.clone())).or_default() += 1;
            }
            let mut given = [BTreeMap::new(), BTreeMap::new()];
            for (payload, owed) in rig.came.iter().zip(&rig.owed) {
                for span in rig::spans(payload) {
                    for (_, given) in given.iter_mut().enumerate().filter(|(place, _)| owed >> place & 1 == 1) {
                        *given.entry((span.trace_id.clone(), span.span_id.clone())).or_insert(0_usize) += 1;
                    }
                }
            }
            prop_assert_eq!(&given[0], &given[1]);
            let whole: BTreeSet<_> = given[0].keys().map(|(trace, _)| trace).collect();
            prop_assert_eq!(given[0].len(), whole.len() * SPANS as usize);
            for (span, times) in &given[0] {
                prop_assert_eq!(*times, copies[span]);
            }
            // Whatever came once within the wait is small.
            let mut early: HashMap<&[u8], usize> = HashMap::new();
            for span in sent.iter().flat_map(|(_, spans)| spans) {
                *early.entry(&span.trace_id).or_default() += 1;
            }
            for (trace, _) in early.into_iter().filter(|(_, spans)| *spans == SPANS as usize) {
                prop_assert!(whole.contains(&trace.to_vec()), "taken for larger than it is");
            }
            prop_assert_eq!(rig.ended("refused"), 0);
            rig.end().await;
            Ok(())
        })?;
    }

    /// The process dies, and what was not done comes again from the start: what was decided stays decided.
    #[test]
    fn what_comes_again_is_decided_as_before(seed: u64, dies in 0.1..0.9) {
        paused(async {
            // What the rate lets through hangs on when it is asked: only what is noted can be the same again.
            let rate = "decision_wait = '4s'\npolicies = [{ name = 'rate', type = 'rate_limiting', rate_limiting = { spans_per_second = 50, burst_capacity = 100 } }]";
            let (book, sent) = (Book::default(), scattered(400, seed));
            let mut first = Rig::start(rate, Some(&book)).await;
            for (at, spans) in sent.iter().take((sent.len() as f64 * dies) as usize) {
                first.send(*at, spans.clone()).await;
            }
            let (before, _) = first.end().await;
            let mut second = Rig::start(rate, Some(&book)).await;
            for (at, spans) in &sent {
                second.send(*at, spans.clone()).await;
            }
            second.rest().await;
            let (after, _) = second.end().await;
            for (trace, spans) in &after {
                prop_assert_eq!(spans.len() as u64, SPANS, "in part: {:?}", trace);
            }
            for trace in before.keys() {
                prop_assert!(after.contains_key(trace), "it was sent, and now it is not");
            }
            prop_assert!(after.len() < 400 && after.len() > 5);
            Ok(())
        })?;
    }
}

#[test]
fn late_spans_follow_the_decision_while_it_is_remembered() {
    for (cache, whole) in
        [("", true), ("decision_cache = { sampled_cache_size = 0, non_sampled_cache_size = 0 }\n", false)]
    {
        paused(async {
            let mut rig = Rig::start(&format!("{cache}decision_wait = '1s'\n{ERRORS}"), None).await;
            rig.send(BEGIN, vec![failed(span(1, 0)), span(2, 0)]).await;
            rig.send(BEGIN + 10 * SECOND, vec![span(1, 1), failed(span(2, 1))]).await;
            rig.send(BEGIN + 20 * SECOND, vec![span(3, 0)]).await;
            if whole {
                assert_eq!(rig.came.len(), 2, "late spans go on at once");
                let late = "otelcol_processor_tail_sampling_early_releases_from_cache_decision";
                assert_eq!((rig.metric(late, "\"true\""), rig.metric(late, "\"false\"")), (1.0, 1.0));
            }
            let (came, _) = rig.end().await;
            let expected = if whole { vec![(1, vec![1, 2])] } else { vec![(1, vec![1]), (2, vec![2])] };
            let expected: HashMap<Vec<u8>, Vec<u64>> =
                expected.into_iter().map(|(trace, spans)| (id(trace), spans)).collect();
            let came: HashMap<_, _> =
                came.into_iter().map(|(trace, spans)| (trace, spans.into_keys().collect())).collect();
            assert_eq!(came, expected);
        });
    }
}

#[test]
fn what_comes_again_for_another_branch_joins_what_is_held_and_follows_what_was_decided() {
    paused(async {
        let settings = "decision_wait = '10s'\ndecision_wait_after_root_received = '1s'\npolicies = [{ name = 'small', type = 'span_count', span_count = { max_spans = 2 } }]";
        let mut rig = Rig::start(settings, Some(&Book::default())).await;
        let root = |trace| Span { parent_span_id: Vec::new(), ..span(trace, 0) };
        let both = || payload(vec![("orders", vec![root(1), span(2, 0)])]);
        rig.send_record(BEGIN, both(), 7, 0b01).await;
        rig.send_record(BEGIN, payload(vec![("orders", vec![span(1, 1), span(2, 1)])]), 8, 0b11).await;
        rig.send_record(BEGIN + 3 * SECOND, payload(vec![("orders", vec![span(3, 0)])]), 9, 0b11).await;
        rig.linger().await;
        // The first trace is decided: what was given to one alone goes to him alone.
        assert_eq!((rig.came.len(), &rig.owed[..]), (2, &[0b01, 0b11][..]));
        rig.send_record(BEGIN, both(), 7, 0b10).await;
        assert_eq!((rig.came.len(), rig.owed[2]), (3, 0b10), "the rest of it to the other");
        assert_eq!(rig::spans(&rig.came[2]), [root(1)]);
        rig.send_record(BEGIN + 20 * SECOND, payload(vec![("orders", vec![span(4, 0)])]), 10, 0b11).await;
        rig.linger().await;
        let second: Vec<_> =
            rig.came[3..].iter().flat_map(rig::spans).filter(|it| it.trace_id == id(2)).collect();
        assert_eq!((second.len(), rig.owed[3]), (2, 0b11), "the second trace has two spans, for both");
        assert_eq!(rig.ended("refused"), 0);
        rig.end().await;
    });
}

#[test]
fn over_its_bounds_it_decides_early_and_drops_nothing_undecided() {
    for (bound, reason) in [("num_traces = 100", "num_traces"), ("max_bytes = '1MiB'", "max_bytes")] {
        paused(async {
            let mut rig = Rig::start(&format!("{bound}\ndecision_wait = '1h'\n{ERRORS}"), None).await;
            let filler = "x".repeat(1000);
            for trace in 0..3_000_u64 {
                let made = if trace % 10 == 0 { failed(span(trace, 0)) } else { span(trace, 0) };
                rig.send(BEGIN + trace, vec![Span { name: filler.clone(), ..made }]).await;
            }
            let early = rig.metric("watershed_tail_sampling_early_decisions", reason);
            assert!((1_800.0..3_000.0).contains(&early), "{reason}: {early}");
            let (came, rig) = rig.end().await;
            assert_eq!(came.len(), 300, "{reason}");
            assert!(
                rig.metric("otelcol_processor_tail_sampling_count_traces_sampled", "not_sampled") == 2_700.0
            );
        });
    }
    // Or it takes no more.
    paused(async {
        let mut rig = Rig::start(
            &format!("num_traces = 10\nblock_on_overflow = true\ndecision_wait = '1s'\n{ERRORS}"),
            None,
        )
        .await;
        for trace in 0..15 {
            rig.send(BEGIN, vec![failed(span(trace, 0))]).await;
        }
        let refused = "otelcol_processor_refused_spans";
        assert_eq!(rig.metric(refused, ""), 5.0);
        rig.send(BEGIN + 2 * SECOND, vec![failed(span(99, 0))]).await;
        let (came, _) = rig.end().await;
        assert_eq!(came.len(), 11);
    });
}

#[test]
fn what_is_refused_and_comes_again_does_not_keep_time_from_going_on() {
    paused(async {
        let settings = format!("num_traces = 1\nblock_on_overflow = true\ndecision_wait = '1s'\n{ERRORS}");
        let mut rig = Rig::start(&settings, Some(&Book::default())).await;
        rig.send(BEGIN, vec![failed(span(1, 0))]).await;
        for _ in 0..4 {
            rig.send(BEGIN, vec![failed(span(2, 0))]).await;
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        assert!(rig.ended("refused") < 4);
        assert!(rig.end().await.0.contains_key(&id(1)));
    });
}

#[test]
fn what_comes_again_and_again_for_a_branch_that_is_away_does_not_keep_time_from_going_on() {
    paused(async {
        let mut rig = Rig::start(&format!("decision_wait = '1s'\n{ERRORS}"), Some(&Book::default())).await;
        let one = |trace| payload(vec![("orders", vec![failed(span(trace, 0))])]);
        rig.send_record(BEGIN, one(1), 1, 0b11).await;
        rig.send_record(BEGIN + 2 * SECOND, one(2), 2, 0b11).await;
        rig.linger().await;
        assert_eq!(rig.came.len(), 1, "the first is decided");
        for _ in 0..5 {
            rig.send_record(BEGIN, one(1), 1, 0b10).await;
            rig.linger().await;
        }
        let came: BTreeSet<_> = rig.came.iter().flat_map(rig::spans).map(|span| span.trace_id).collect();
        assert!(came.contains(&id(2)));
        rig.end().await;
    });
}

#[test]
fn after_a_panic_what_is_held_is_decided_without_another_message() {
    paused(async {
        let mut rig = Rig::start(&format!("decision_wait = '1s'\n{ERRORS}"), None).await;
        rig.send(BEGIN, vec![failed(span(1, 0))]).await;
        BREAKS.set(Some("before decisions are carried out"));
        rig.rest().await;
        assert_eq!((rig.cell.observe().restarts.panicked, rig.came.len()), (1, 1));
        rig.end().await;
    });
}

#[test]
fn decisions_that_can_not_be_written_down_stand_and_are_tried_again_from_time_to_time() {
    paused(async {
        let settings = "num_traces = 50\ndecision_wait = '1s'\npolicies = [{ name = 'rate', type = 'rate_limiting', rate_limiting = { spans_per_second = 10, burst_capacity = 10 } }]";
        let book = Book::default();
        let mut rig = Rig::start(settings, Some(&book)).await;
        for trace in 0..10 {
            rig.send(BEGIN, vec![span(trace, 0)]).await;
        }
        book.pages().is_closed = true;
        for trace in 10..210 {
            rig.send(BEGIN + 2 * SECOND, vec![span(trace, 0)]).await;
        }
        assert!((2..10).contains(&book.pages().used.1), "{:?}", book.pages().used);
        assert_eq!(rig.ended("refused"), 160, "beyond its bound it takes no more");
        book.pages().is_closed = false;
        rig.rest().await;
        // The rate was asked once for each: what comes of the first ten is not spent on trying.
        let (came, rig) = rig.end().await;
        assert!((0..10).all(|trace| came.contains_key(&id(trace))), "{}", came.len());
        assert_eq!(rig.ended("delivered") + rig.ended("dropped") + rig.ended("refused"), 210);
    });
}

#[test]
fn more_decisions_than_a_note_takes_are_noted_in_several() {
    paused(async {
        let (book, traces) = (Book::default(), LARGEST_NOTE as u64 / 17 + 100);
        let mut rig = Rig::start(&format!("decision_wait = '1s'\n{ERRORS}"), Some(&book)).await;
        rig.send(BEGIN, (0..traces).map(|trace| failed(span(trace, 0))).collect()).await;
        rig.send(BEGIN + 9 * SECOND, vec![span(traces, 0)]).await;
        rig.linger().await;
        assert_eq!(rig.came.iter().map(Payload::items).sum::<usize>() as u64, traces);
        assert_eq!(book.pages().notes.len(), 2);
        rig.end().await;
    });
}

#[test]
fn each_copy_reads_once_what_is_noted_of_its_own_traces() {
    paused(async {
        let book = Book::default();
        let mut rig = Rig::start(&format!("decision_wait = '1s'\n{ERRORS}"), Some(&book)).await;
        rig.send(BEGIN, (0..100).map(|trace| span(trace, 0)).collect()).await;
        BREAKS.set(Some("before decisions are carried out"));
        rig.rest().await;
        assert_eq!((rig.cell.observe().restarts.panicked, book.pages().used.0), (1, 1));
        rig.end().await;
        let note = book.pages().notes[0].text.clone();
        let shares: Vec<Vec<u8>> = (0..3).map(|copy| share(&note, copy, 3)).collect();
        let read: BTreeSet<_> = shares.iter().flat_map(|share| read_note(share)).collect();
        assert_eq!(read, read_note(&note).collect());
        assert_eq!(shares.iter().map(|share| read_note(share).count()).sum::<usize>(), 100);
        assert!(shares.iter().all(|share| (10..60).contains(&read_note(share).count())));
    });
}

#[test]
fn a_message_that_never_ends_keeps_the_decisions_of_its_time_alone() {
    let (mut decided, capacity) = (Decided::default(), Capacity { sampled: 100, not_sampled: 100 });
    for second in 0..10_000_u64 {
        // Something of the fifth second is never done.
        let unfinished = Unfinished::new([(5 * SECOND, 5 * SECOND), (second * SECOND, u64::MAX)]);
        let noted = (second.saturating_sub(2) * SECOND, second * SECOND);
        decided.add(second, true, noted, capacity, &unfinished);
    }
    assert!((100..120).contains(&decided.len()), "{}", decided.len());
    assert!((5..=7).all(|second| decided.of(second).is_some()), "it may come again");
    assert!(decided.of(9_990).is_some() && decided.of(100).is_none());
}

#[test]
fn a_trace_with_its_root_is_decided_sooner_and_a_huge_one_is_left_out() {
    paused(async {
        let settings = format!(
            "decision_wait = '1h'\ndecision_wait_after_root_received = '2s'\nmaximum_trace_size_bytes = 2000\n{ERRORS}"
        );
        let mut rig = Rig::start(&settings, None).await;
        let root = |trace, parent| Span { parent_span_id: parent, ..failed(span(trace, 0)) };
        rig.send(BEGIN, vec![root(1, Vec::new()), failed(span(2, 0)), root(4, vec![0; 8])]).await;
        rig.send(BEGIN + SECOND, vec![span(1, 1)]).await;
        rig.send(BEGIN + 3 * SECOND, vec![Span { name: "x".repeat(3000), ..failed(span(3, 0)) }]).await;
        assert_eq!(rig.came.iter().map(Payload::items).sum::<usize>(), 3);
        rig.send(BEGIN + 9 * SECOND, vec![failed(span(3, 1))]).await;
        assert_eq!(rig.metric("otelcol_processor_tail_sampling_traces_dropped_too_large", ""), 1.0);
        let (came, _) = rig.end().await;
        let mut traces: Vec<_> = came.into_keys().collect();
        traces.sort();
        let mut expected = vec![id(1), id(2), id(4)];
        expected.sort();
        assert_eq!(traces, expected);
    });
}

#[test]
fn traces_that_ended_sooner_do_not_stand_in_for_the_oldest() {
    paused(async {
        let settings =
            format!("num_traces = 10\ndecision_wait = '1h'\nmaximum_trace_size_bytes = 500\n{ERRORS}");
        let mut rig = Rig::start(&settings, None).await;
        for trace in 0..100 {
            let huge = Span { name: "x".repeat(1000), ..span(trace, 0) };
            rig.send(BEGIN + trace * 2 * SECOND, vec![huge]).await;
        }
        for trace in 100..111 {
            rig.send(BEGIN + 202 * SECOND, vec![span(trace, 0)]).await;
        }
        assert_eq!(rig.metric("watershed_tail_sampling_early_decisions", "num_traces"), 10.0);
        rig.end().await;
    });
}

#[test]
fn the_smallest_of_spans_take_room_too() {
    paused(async {
        let mut rig = Rig::start(&format!("max_bytes = '1MiB'\ndecision_wait = '1h'\n{ERRORS}"), None).await;
        for _ in 0..2 {
            rig.send(BEGIN, vec![Span::default(); 20_000]).await;
        }
        assert_eq!(rig.metric("watershed_tail_sampling_early_decisions", "max_bytes"), 1.0);
        rig.end().await;
    });
}

/// With a look for each trace it takes minutes.
#[test]
#[expect(clippy::disallowed_methods, reason = "what is bounded is the time of a processor")]
fn a_large_resource_over_many_traces_is_looked_through_once() {
    paused(async {
        let policies = "[[policies]]\nname = 'p'\ntype = 'string_attribute'\nstring_attribute = { key = 'no', values = ['x'] }";
        let mut rig = Rig::start(&format!("decision_wait = '4s'\n{policies}"), None).await;
        let attributes = (0..40_000).map(|number| rig::text(&format!("k{number}"), "")).collect();
        let spans = (0..40_000).map(|trace| span(trace, 0)).collect();
        let group = ResourceSpans {
            resource: Some(Resource { attributes, ..Resource::default() }),
            scope_spans: vec![ScopeSpans { spans, ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        };
        let request = ExportTraceServiceRequest { resource_spans: vec![group] }.encode_to_vec();
        let began = std::time::Instant::now();
        rig.send_payload(BEGIN, Payload::validate(Signal::Traces, request.into()).unwrap()).await;
        rig.send(BEGIN + 10 * SECOND, vec![span(50_000, 0)]).await;
        rig.linger().await;
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        assert_eq!(rig.metric("watershed_tail_sampling_early_decisions", ""), 0.0);
        assert_eq!(rig.end().await.0.len(), 0);
    });
}

#[test]
fn the_smallest_of_groups_take_room_too() {
    paused(async {
        let mut rig = Rig::start(&format!("max_bytes = '1MiB'\ndecision_wait = '1h'\n{ERRORS}"), None).await;
        for _ in 0..2 {
            rig.send_payload(BEGIN, payload(vec![("", vec![Span::default()]); 5_000])).await;
        }
        assert_eq!(rig.metric("watershed_tail_sampling_early_decisions", "max_bytes"), 1.0);
        rig.end().await;
    });
}

#[test]
fn a_message_of_more_spans_than_can_be_held_is_rejected_and_counted() {
    paused(async {
        let mut rig = Rig::start(
            &format!("max_bytes = '1MiB'\ndecision_wait = '1h'\n{ERRORS}"),
            Some(&Book::default()),
        )
        .await;
        rig.send(BEGIN, vec![Span::default(); 300_000]).await;
        assert_eq!((rig.ended("rejected"), rig.metric("watershed_tail_sampling_held_bytes", "")), (1, 0.0));
        assert_eq!(rig.metric("watershed_tail_sampling_rejected_spans", "max_bytes"), 300_000.0);
        // It is what is taken beside its bytes that counts: a message that is merely large is held.
        rig.send(BEGIN, vec![Span { name: "x".repeat(4 << 20), ..failed(span(1, 0)) }]).await;
        assert_eq!(rig.ended("rejected"), 1);
        rig.end().await;
    });
}

#[test]
fn a_policy_sees_each_resource_of_a_trace() {
    let policy =
        "type = 'string_attribute', string_attribute = { key = 'service.name', values = ['payments'] }";
    paused(async {
        let mut rig = Rig::start(&format!("policies = [{{ name = 'p', {policy} }}]"), None).await;
        let part = |trace, from: u64| (from..from + 3).map(|number| span(trace, number)).collect::<Vec<_>>();
        // First, midway and last; in one message and in several; and not at all.
        for services in [
            ["payments", "orders", "orders"],
            ["orders", "payments", "orders"],
            ["orders", "orders", "payments"],
        ] {
            let trace = services.iter().position(|service| *service == "payments").unwrap() as u64;
            let groups = services.iter().zip([0, 3, 6]);
            rig.send_payload(BEGIN, payload(groups.clone().map(|(it, at)| (*it, part(trace, at))).collect()))
                .await;
            for (service, at) in groups {
                rig.send_payload(BEGIN, payload(vec![(service, part(trace + 10, at))])).await;
            }
        }
        rig.send(BEGIN, part(20, 0)).await;
        let (came, _) = rig.end().await;
        let mut traces: Vec<_> = came.into_keys().collect();
        traces.sort();
        let mut expected: Vec<_> = [0, 1, 2, 10, 11, 12].map(id).into();
        expected.sort();
        assert_eq!(traces, expected);
    });
}

#[test]
fn what_is_undecided_at_the_end_is_decided_unless_it_is_to_go() {
    for (more, count) in [("", 1), ("drop_pending_traces_on_shutdown = true\n", 0)] {
        paused(async {
            let mut rig = Rig::start(&format!("{more}{ERRORS}"), None).await;
            rig.send(BEGIN, vec![failed(span(1, 0)), span(2, 0)]).await;
            assert_eq!(rig.end().await.0.len(), count);
        });
    }
    // Who keeps it will hand it out again.
    paused(async {
        let book = Book::default();
        let mut rig = Rig::start(ERRORS, Some(&book)).await;
        rig.send(BEGIN, vec![failed(span(1, 0))]).await;
        let (came, rig) = rig.end().await;
        assert_eq!((came.len(), rig.ended("refused")), (0, 1));
    });
}

#[test]
fn what_goes_on_together_stays_under_its_resources() {
    paused(async {
        let mut rig = Rig::start(&format!("decision_wait = '1s'\n{ERRORS}"), None).await;
        for number in 0..50 {
            let part = |trace| {
                vec![
                    failed(span(trace, number)),
                    span(1_000 + number, number),
                    failed(span(trace + 1, number)),
                ]
            };
            rig.send_payload(BEGIN + number, payload(vec![("orders", part(1)), ("payments", part(3))])).await;
        }
        rig.send(BEGIN + 9 * SECOND, vec![span(9, 9)]).await;
        assert_eq!(rig.came.len(), 1, "one request");
        let groups: Vec<(String, usize)> = rig.came[0]
            .resources()
            .map(|group| {
                let service = group.resource().attributes().find("service.name").and_then(|it| it.as_str());
                (service.unwrap().to_owned(), group.scopes().map(|scope| scope.spans().count()).sum())
            })
            .collect();
        assert_eq!(groups.len(), 100);
        assert!(groups.iter().all(|(_, spans)| *spans == 2));
        rig.end().await;
    });
}
