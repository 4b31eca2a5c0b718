//! What becomes of the messages that were in hand when an incarnation ended.
//!
//! A message is only ever judged by what happens while it alone is in hand. A merged one is divided until the
//! part that breaks the stage stands alone; a part that breaks it twice is *poison* if the stage has finished
//! something else since the first time, for then the stage works and the message is to blame. Without that
//! proof it is refused, and its sender may try again: a stage that is broken as a whole must not shred good data.

use watershed_delivery::{Cause, Fault, Outcome};

use crate::failure::quietly;
use crate::lane::{Entry, Trial};
use crate::{Cell, Exit, Mail, State};

/// What the supervisor has to know of an end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Recovery {
    /// The incarnation finished a message.
    pub(crate) progressed: bool,
    /// The message is to blame and was dealt with, or is being narrowed down: no mark against the stage.
    pub(crate) excused: bool,
}

/// What is decided about a message.
enum Verdict<M> {
    /// Hand these out before anything else, one at a time.
    Retry(Vec<Entry<M>>),
    /// Hand it out again once the others have had their turn.
    Later(Entry<M>),
    End(Entry<M>, Outcome),
    /// It did not survive being divided; what was left of it has refused itself.
    Gone,
}

impl<M: Mail> Cell<M> {
    /// Ends the incarnation of this number and decides what becomes of what it had in hand.
    ///
    /// In three steps, since the mail's own code (dividing, settling) must not run under the lock. Between them
    /// nobody else can serve the cell, but anybody may tear it down.
    pub(crate) fn recover(&self, generation: u64, exit: Exit, message: &str) -> Recovery {
        let mut lane = self.lane().lock();
        if lane.generation != generation || lane.state.is_final() {
            return Recovery::default();
        }
        lane.live = false;
        lane.waker = None;
        self.pulse().clear();
        let broke = matches!(exit, Exit::Failed | Exit::Panicked | Exit::Stalled);
        if broke {
            lane.note(exit, message);
        }
        if matches!(lane.state, State::Starting | State::Running) && generation > 0 {
            lane.state = State::BackingOff;
        }
        let mut in_hand = lane.take_in_hand();
        let handled = lane.handled;
        let progressed = handled > lane.handled_before;
        let others = !lane.suspects.is_empty();
        let accused = if broke && in_hand.len() == 1 { in_hand.pop() } else { None };
        let Some(accused) = accused else {
            for entry in in_hand.into_iter().rev() {
                // Several in hand: none is accused, but each must now prove itself alone. None to blame: a
                // suspect stays one, and the rest goes back to where it came from.
                let suspect = broke || entry.trial.strikes > 0;
                if suspect { &mut lane.suspects } else { &mut lane.queue }.push_front(entry);
            }
            lane.probe = lane.suspects.front().is_some_and(|first| first.trial.is_unproven(handled));
            return Recovery { progressed, excused: false };
        };
        drop(lane);

        let (verdict, excused) =
            judge(accused, handled, others, || format!("{} {exit} on it: {message}", self.name()));

        let mut ended = Vec::new();
        let mut lane = self.lane().lock();
        match verdict {
            Verdict::Retry(entries) => {
                entries.into_iter().rev().for_each(|entry| lane.suspects.push_front(entry));
            }
            Verdict::Later(entry) => lane.suspects.push_back(entry),
            Verdict::End(entry, outcome) => {
                match &outcome {
                    Outcome::Rejected(_) => lane.poisoned += 1,
                    _ if entry.mail.is_withdrawn() => lane.withdrawn += 1,
                    _ => lane.refused += 1,
                }
                ended.push((entry, outcome));
            }
            Verdict::Gone => lane.refused += 1,
        }
        lane.probe = lane.suspects.front().is_some_and(|first| first.trial.is_unproven(handled));
        if let Some(refusal) = lane.closed.clone() {
            let all = lane.take_all();
            lane.refused += all.len() as u64;
            ended.extend(all.into_iter().map(|entry| (entry, refusal.clone().into())));
        }
        drop(lane);
        for (entry, outcome) in ended {
            self.end(entry, outcome);
        }
        Recovery { progressed, excused }
    }
}

impl Trial {
    /// Whether it is still open if the stage or the message is to blame.
    fn is_unproven(self, handled: u64) -> bool {
        self.strikes > 0 && handled == self.since
    }
}

/// Judges a message that was alone in hand, and says whether the stage is excused.
fn judge<M: Mail>(
    entry: Entry<M>,
    handled: u64,
    others: bool,
    reason: impl FnOnce() -> String,
) -> (Verdict<M>, bool) {
    if entry.mail.is_withdrawn() {
        let outcome = Outcome::refused(Cause::Withdrawn, "nobody waits for it any more");
        return (Verdict::End(entry, outcome), false);
    }
    let Entry { mail, grant, trial } = entry;
    let first = trial.strikes == 0;
    let trial =
        Trial { strikes: trial.strikes.saturating_add(1), since: if first { handled } else { trial.since } };
    match quietly(move || mail.bisect()) {
        None => (Verdict::Gone, false),
        Some(Ok((left, right))) => {
            let (left_grant, right_grant) = grant.split(left.weight());
            let left = Entry { mail: left, grant: left_grant, trial };
            let right = Entry { mail: right, grant: right_grant, trial };
            (Verdict::Retry(vec![left, right]), !first)
        }
        Some(Err(mail)) => {
            let entry = Entry { mail, grant, trial };
            if handled > trial.since {
                let items = entry.mail.weight().items as u64;
                (Verdict::End(entry, Outcome::rejected(Fault::Poison, items, reason())), true)
            } else if others {
                // They show as well as a fresh message whether the stage can finish anything.
                (Verdict::Later(entry), false)
            } else if first {
                (Verdict::Retry(vec![entry]), false)
            } else {
                (Verdict::End(entry, Outcome::refused(Cause::Failure, reason())), false)
            }
        }
    }
}
