//! What each branch has in hand, and what it is to have next.
//!
//! A branch is given what is new for as long as it keeps up. Beyond its *window* the rest stays on disk alone, and is
//! read and handed out as the branch ends what it has: so the memory that a dead destination can take is the window,
//! and its branch is none of the others' business.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The most messages that one branch may have in hand. Less than an exporter's queue takes by default, so that what
/// is handed out finds room there.
pub(super) const WINDOW_MESSAGES: usize = 512;

/// How long a branch is left alone after it refused, the first time and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// One of those who are owed the messages.
#[derive(Default)]
pub(super) struct Branch {
    /// Messages and bytes.
    in_hand: (usize, u64),
    /// What it refused, to be handed out again.
    again: VecDeque<u64>,
    /// It refused a moment ago: it is given nothing until then.
    pause: Option<Instant>,
    refusals: u32,
}

// === impl Branch ===

impl Branch {
    /// Whether it may be given more: not beyond `window` bytes, though one message however large.
    pub(super) fn has_room(&self, window: u64, now: Instant) -> bool {
        let (messages, bytes) = self.in_hand;
        let room = messages == 0 || (messages < WINDOW_MESSAGES && bytes < window);
        room && self.pause.is_none_or(|until| until <= now)
    }

    /// Ends the pause that is over.
    pub(super) fn resume(&mut self, now: Instant) {
        self.pause = self.pause.filter(|until| *until > now);
    }

    /// When it may be given more, if that is a matter of time.
    pub(super) fn pause(&self) -> Option<Instant> {
        self.pause
    }

    /// Whether what is new has to wait for what was refused before.
    pub(super) fn has_refused(&self) -> bool {
        !self.again.is_empty()
    }

    pub(super) fn next_refused(&mut self) -> Option<u64> {
        self.again.pop_front()
    }

    pub(super) fn given(&mut self, bytes: u64) {
        self.in_hand.0 += 1;
        self.in_hand.1 += bytes;
    }

    /// It holds a message for a while, or somebody before it does: that takes nothing of the window, since what is held
    /// may wait for what comes next.
    pub(super) fn parked(&mut self, bytes: u64) {
        self.returned(Some(bytes));
    }

    /// It has ended a message for good.
    pub(super) fn ended(&mut self, bytes: Option<u64>) {
        self.returned(bytes);
        (self.pause, self.refusals) = (None, 0);
    }

    /// It has refused a message, and asks perhaps to be left alone for so long.
    pub(super) fn refused(
        &mut self,
        sequence: u64,
        bytes: Option<u64>,
        wish: Option<Duration>,
        now: Instant,
    ) {
        self.returned(bytes);
        self.again.push_back(sequence);
        let (first, longest) = PAUSES;
        let pause = first.saturating_mul(1 << self.refusals.min(10)).min(longest);
        // Of what was in hand together each is refused, which is one reason to wait and not many.
        if self.pause.is_none_or(|until| until <= now) {
            self.refusals += 1;
            self.pause = Some(now + pause.max(wish.unwrap_or_default().min(longest)));
        }
    }

    /// It is given nothing for a while, since what is next, perhaps what it had refused, can not be read.
    pub(super) fn rest(&mut self, refused: Option<u64>, now: Instant) {
        if let Some(sequence) = refused {
            self.again.push_front(sequence);
        }
        self.pause = Some(now + PAUSES.1);
    }

    /// `None` of what was returned when it was parked.
    fn returned(&mut self, bytes: Option<u64>) {
        let Some(bytes) = bytes else { return };
        self.in_hand.0 = self.in_hand.0.saturating_sub(1);
        self.in_hand.1 = self.in_hand.1.saturating_sub(bytes);
    }
}
