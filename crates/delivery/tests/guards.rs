//! Guards against a model: every message ends exactly once, as its parts did, whatever is done with them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;
use proptest::prelude::*;
use watershed_delivery::{Cause, Claim, Fault, Guard, Holder, Outcome, Receipt, Rejection};

/// Counts how often it is told, and keeps what it was told last.
#[derive(Default)]
struct Book {
    told: AtomicUsize,
    outcome: Mutex<Option<Outcome>>,
}

impl Holder for Book {
    fn settled(&self, outcome: Outcome) {
        self.told.fetch_add(1, Ordering::SeqCst);
        *self.outcome.lock() = Some(outcome);
    }
}

/// What may be done to one of the guards that are alive, chosen by an index that wraps.
#[derive(Clone, Debug)]
enum Step {
    Fork(usize),
    Split(usize, usize),
    Merge(usize, usize),
    Unmerge(usize),
    Resolve(usize, Outcome),
    Drop(usize),
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Delivered),
        (1_u64..9).prop_map(|items| Outcome::Dropped { items }),
        (1_u64..9).prop_map(|items| Outcome::rejected(Fault::Invalid, items, "wrong")),
        Just(Outcome::refused(Cause::Overload, "full")),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let index = 0_usize..64;
    prop_oneof![
        index.clone().prop_map(Step::Fork),
        (index.clone(), 1_usize..4).prop_map(|(index, parts)| Step::Split(index, parts)),
        (index.clone(), index.clone()).prop_map(|(a, b)| Step::Merge(a, b)),
        index.clone().prop_map(Step::Unmerge),
        (index.clone(), outcome()).prop_map(|(index, outcome)| Step::Resolve(index, outcome)),
        index.prop_map(Step::Drop),
    ]
}

/// A guard beside the messages it is a part of.
type Part = (Guard, Vec<usize>);

/// What should be known of one message.
#[derive(Default)]
struct Message {
    parts: usize,
    joined: Option<Outcome>,
    answered: Option<Outcome>,
}

impl Message {
    fn pay(&mut self, outcome: &Outcome, awaited: bool) {
        self.parts -= 1;
        if self.answered.is_some() {
            return;
        }
        let joined = match self.joined.take() {
            Some(joined) => joined.join(outcome.clone()),
            None => outcome.clone(),
        };
        if self.parts == 0 || (awaited && matches!(outcome, Outcome::Refused(_))) {
            self.answered = Some(joined);
        } else {
            self.joined = Some(joined);
        }
    }
}

struct Noted(AtomicUsize);

impl Wake for Noted {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll(receipt: &mut Receipt, waker: &Waker) -> Option<Outcome> {
    match Pin::new(receipt).poll(&mut Context::from_waker(waker)) {
        Poll::Ready(outcome) => Some(outcome),
        Poll::Pending => None,
    }
}

proptest! {
    #[test]
    fn every_message_ends_once_as_its_parts_did(
        awaited in prop::collection::vec(any::<bool>(), 1..5),
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let mut parts: Vec<Part> = Vec::new();
        let mut model: Vec<Message> = Vec::new();
        let mut receipts: Vec<Option<Receipt>> = Vec::new();
        let mut books: Vec<Option<Arc<Book>>> = Vec::new();
        for (index, awaited) in awaited.iter().enumerate() {
            let guard = if *awaited {
                let (guard, receipt) = Guard::awaited(None);
                receipts.push(Some(receipt));
                books.push(None);
                guard
            } else {
                let book = Arc::new(Book::default());
                books.push(Some(book.clone()));
                receipts.push(None);
                Guard::held(book)
            };
            parts.push((guard, vec![index]));
            model.push(Message { parts: 1, ..Message::default() });
        }
        let noted = Arc::new(Noted(AtomicUsize::new(0)));
        let waker = Waker::from(noted.clone());
        for receipt in receipts.iter_mut().flatten() {
            prop_assert!(poll(receipt, &waker).is_none());
        }

        for step in steps {
            if parts.is_empty() {
                break;
            }
            let at = |index: usize| index % parts.len();
            match step {
                Step::Fork(index) => {
                    let index = at(index);
                    let (fork, of) = (parts[index].0.fork(), parts[index].1.clone());
                    of.iter().for_each(|message| model[*message].parts += 1);
                    parts.push((fork, of));
                }
                Step::Split(index, count) => {
                    let (guard, of) = parts.swap_remove(at(index));
                    of.iter().for_each(|message| model[*message].parts += count - 1);
                    parts.extend(guard.split(count).into_iter().map(|guard| (guard, of.clone())));
                }
                Step::Merge(a, b) => {
                    let (a, b) = (at(a), at(b));
                    if a != b {
                        let (second, mut of) = parts.swap_remove(a.max(b));
                        let (first, others) = parts.swap_remove(a.min(b));
                        of.extend(others);
                        parts.push((Guard::merge([second, first]).unwrap(), of));
                    }
                }
                Step::Unmerge(index) => {
                    let (guard, of) = parts.swap_remove(at(index));
                    parts.extend(guard.unmerge().into_iter().zip(of.into_iter().map(|message| vec![message])));
                }
                Step::Resolve(index, outcome) => {
                    let (guard, of) = parts.swap_remove(at(index));
                    guard.resolve(outcome.clone());
                    of.iter().for_each(|message| model[*message].pay(&outcome, awaited[*message]));
                }
                Step::Drop(index) => {
                    let (guard, of) = parts.swap_remove(at(index));
                    drop(guard);
                    let outcome = Outcome::refused(Cause::Abandoned, "given up unresolved");
                    of.iter().for_each(|message| model[*message].pay(&outcome, awaited[*message]));
                }
            }
            for (guard, of) in &parts {
                let refused = |message: &usize| {
                    awaited[*message] && matches!(model[*message].answered, Some(Outcome::Refused(_)))
                };
                prop_assert_eq!(guard.is_withdrawn(), of.iter().all(refused));
            }
            for (index, expected) in model.iter().enumerate() {
                match (&receipts[index], &books[index]) {
                    (Some(receipt), _) => prop_assert_eq!(&receipt.outcome(), &expected.answered),
                    (_, Some(book)) => {
                        prop_assert_eq!(book.told.load(Ordering::SeqCst), usize::from(expected.answered.is_some()));
                        prop_assert_eq!(&*book.outcome.lock(), &expected.answered);
                    }
                    _ => unreachable!(),
                }
            }
        }

        // Whatever is still alive at the end is given up, and then every message has ended.
        drop(parts);
        let mut ready = 0;
        for receipt in receipts.iter_mut().flatten() {
            prop_assert!(poll(receipt, &waker).is_some());
            ready += 1;
        }
        prop_assert_eq!(noted.0.load(Ordering::SeqCst), ready, "each waiting end is woken exactly once");
        for book in books.iter().flatten() {
            prop_assert_eq!(book.told.load(Ordering::SeqCst), 1);
        }
    }

    #[test]
    fn joining_is_associative_and_keeps_the_strongest(a in outcome(), b in outcome(), c in outcome()) {
        let left = a.clone().join(b.clone()).join(c.clone());
        prop_assert_eq!(&left, &a.clone().join(b.clone().join(c.clone())));
        prop_assert_eq!(a.clone().join(Outcome::Delivered), a.clone());
        let strength = |outcome: &Outcome| match outcome {
            Outcome::Refused(_) => 3,
            Outcome::Rejected(_) => 2,
            Outcome::Dropped { .. } => 1,
            Outcome::Delivered => 0,
        };
        prop_assert_eq!(strength(&left), strength(&a).max(strength(&b)).max(strength(&c)));
    }
}

#[test]
fn a_receipt_that_is_dropped_withdraws() {
    let (guard, receipt) = Guard::awaited(None);
    assert!(!guard.is_withdrawn());
    drop(receipt);
    assert!(guard.is_withdrawn());
}

#[test]
fn a_refusal_answers_at_once_and_withdraws_the_other_branches() {
    let (guard, receipt) = Guard::awaited(None);
    let branch = guard.fork();
    guard.resolve(Outcome::refused(Cause::Overload, "full"));
    assert!(matches!(receipt.outcome(), Some(Outcome::Refused(_))));
    assert!(branch.is_withdrawn());
    branch.resolve(Outcome::Delivered);
    assert!(matches!(receipt.outcome(), Some(Outcome::Refused(_))), "an answer stands");
}

/// Knows its message by a number, and one branch owes it.
struct Numbered(u64);

impl Holder for Numbered {
    fn settled(&self, _: Outcome) {}

    fn number(&self) -> Option<u64> {
        Some(7)
    }

    fn branches(&self) -> u64 {
        1 << self.0
    }
}

#[test]
fn a_message_has_a_number_in_all_its_parts_and_none_among_others_or_in_halves() {
    let new = |branch| Guard::held(Arc::new(Numbered(branch)));
    let (first, mut second) = (new(0), new(1));
    assert_eq!((first.number(), first.fork().number(), first.branches()), (Some(7), Some(7), 0b01));
    second.join(first);
    assert_eq!((second.number(), second.branches()), (None, 0b11));
    let (one, other) = new(0).bisect();
    assert_eq!((one.number(), other.number(), other.fork().number()), (None, None, None));
    let (awaited, receipt) = Guard::awaited(None);
    assert_eq!((awaited.number(), awaited.branches()), (None, u64::MAX));
    drop(receipt);
}

#[test]
fn what_is_said_of_the_items_of_a_piece_is_not_said_of_the_whole() {
    let told = |guard: Guard, book: &Book| {
        let rejection = Rejection { fault: Fault::Invalid, reason: "bad".into(), items: 1, which: None };
        guard.resolve(rejection.of([0]).into());
        match book.outcome.lock().take() {
            Some(Outcome::Rejected(rejection)) => {
                (rejection.items, rejection.which.map(|which| which.to_vec()))
            }
            other => panic!("{other:?}"),
        }
    };
    let new = || {
        let book = Arc::new(Book::default());
        (Guard::held(book.clone()), book)
    };
    let (whole, book) = new();
    assert_eq!(told(whole, &book), (1, Some(vec![0])));
    let (whole, book) = new();
    let (first, second) = whole.bisect();
    first.resolve(Outcome::Delivered);
    assert_eq!(told(second, &book), (1, None));
    let (whole, book) = new();
    assert_eq!(told(whole.cut(), &book), (1, None));
}

/// Keeps a message that two branches are owed, the first of which has paid before.
struct Keeper {
    whole: Arc<Book>,
    second: Arc<Book>,
}

impl Holder for Keeper {
    fn settled(&self, outcome: Outcome) {
        self.whole.settled(outcome);
    }

    fn keeps(&self) -> bool {
        true
    }

    fn branch(&self, id: &str) -> Claim {
        if id == "second" { Claim::Own(Guard::held(self.second.clone())) } else { Claim::Paid }
    }
}

#[test]
fn a_keeper_is_owed_by_each_branch_that_has_not_paid() {
    let (whole, second) = (Arc::new(Book::default()), Arc::new(Book::default()));
    let kept = Guard::held(Arc::new(Keeper { whole: whole.clone(), second: second.clone() }));
    assert!(kept.is_kept());
    assert!(kept.branch("first").is_none(), "it has paid");
    let branch = kept.branch("second").unwrap();
    kept.resolve(Outcome::Delivered);
    assert_eq!(*whole.outcome.lock(), Some(Outcome::Delivered), "a branch does not hold up the message");
    branch.resolve(Outcome::refused(Cause::Overload, "full"));
    assert_eq!(second.told.load(Ordering::SeqCst), 1);

    let (awaited, receipt) = Guard::awaited(None);
    let part = awaited.branch("first").unwrap();
    assert!(!awaited.is_kept());
    awaited.resolve(Outcome::Delivered);
    assert_eq!(receipt.outcome(), None, "to one who waits a branch is a part like any other");
    part.resolve(Outcome::Delivered);
    assert_eq!(receipt.outcome(), Some(Outcome::Delivered));
}
