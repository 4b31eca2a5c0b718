//! What follows when an incarnation ends: a decision without a clock, an actor or a side effect.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

use crate::Exit;

/// When a child is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Restart {
    /// Always.
    #[default]
    Permanent,
    /// Unless it ended without error.
    Transient,
    /// Never.
    Temporary,
}

/// How often, how fast, and until when children are started again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// The longest first delay; the very first restart is immediate. Doubled with every restart without
    /// progress.
    pub base: Duration,
    /// The longest delay.
    pub cap: Duration,
    /// How many restarts without progress within the window are made before the circuit opens.
    pub intensity: usize,
    /// The time in which they are counted; an incarnation that lasts as long is forgiven those before it.
    pub window: Duration,
    /// How long a circuit stays open before the group is restarted.
    pub cool_down: Duration,
    /// How long an incarnation may take to start.
    pub start_timeout: Duration,
    /// How long an incarnation that was aborted may take to be dropped before a drain goes on without it.
    pub abort_grace: Duration,
    /// Seeds the jitter; random where it is `None`.
    pub seed: Option<u64>,
}

/// What a supervisor does about an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Start another incarnation.
    Restart {
        /// When, from now.
        after: Duration,
    },
    /// Refuse mail, cool down, and restart the group once.
    Open,
    /// The last chance is used up.
    Escalate,
    /// It ended, and that was all it was meant to do.
    Stop,
}

/// What is remembered of one child.
#[derive(Debug)]
pub(crate) struct Ledger {
    restart: Restart,
    policy: Policy,
    /// When restarts without progress were decided, within the window.
    restarts: VecDeque<Instant>,
    /// How many in a row; decides the delay.
    streak: u32,
    /// The group was restarted for it, and it has made no progress since.
    second_chance: bool,
    jitter: SplitMix,
}

/// How an incarnation ended, as far as the decision depends on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ending {
    pub(crate) exit: Exit,
    /// How long it lasted, or until it stalled.
    pub(crate) ran: Duration,
    /// How long it took to notice that it had stalled.
    pub(crate) stalled: Duration,
    /// It finished a message.
    pub(crate) progressed: bool,
    /// The message is to blame and was dealt with, or is being narrowed down.
    pub(crate) excused: bool,
}

#[derive(Debug)]
struct SplitMix(u64);

// === impl Policy ===

impl Default for Policy {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(100),
            cap: Duration::from_secs(30),
            intensity: 5,
            window: Duration::from_secs(60),
            cool_down: Duration::from_secs(10),
            start_timeout: Duration::from_secs(30),
            abort_grace: Duration::from_secs(1),
            seed: None,
        }
    }
}

impl Policy {
    /// The longest delay before the restart after `streak` in a row.
    fn ceiling(&self, streak: u32) -> Duration {
        match streak.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => {
                let factor = 1u32.checked_shl(doublings).unwrap_or(u32::MAX);
                self.base.saturating_mul(factor).min(self.cap)
            }
        }
    }
}

// === impl Ledger ===

impl Ledger {
    pub(crate) fn new(restart: Restart, policy: Policy, salt: u64) -> Self {
        let seed = policy.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
        Self {
            restart,
            policy,
            restarts: VecDeque::new(),
            streak: 0,
            second_chance: false,
            jitter: SplitMix(seed ^ salt),
        }
    }

    /// Decides what follows, and remembers it.
    pub(crate) fn on_exit(&mut self, now: Instant, ending: Ending) -> Decision {
        let in_order = ending.exit == Exit::Ended;
        match self.restart {
            Restart::Temporary => return Decision::Stop,
            Restart::Transient if in_order => return Decision::Stop,
            Restart::Transient | Restart::Permanent => {}
        }
        if ending.progressed || ending.ran >= self.policy.window {
            self.forgive();
        }
        if ending.excused {
            return Decision::Restart { after: Duration::ZERO };
        }
        // A stall takes as long as its timeout; that must not make it look rare.
        self.restarts.iter_mut().for_each(|at| *at += ending.stalled);
        while self.restarts.front().is_some_and(|at| now.saturating_duration_since(*at) >= self.policy.window)
        {
            self.restarts.pop_front();
        }
        if self.restarts.len() >= self.policy.intensity {
            self.restarts.clear();
            self.streak = 0;
            return if std::mem::replace(&mut self.second_chance, true) {
                Decision::Escalate
            } else {
                Decision::Open
            };
        }
        let ceiling = self.policy.ceiling(self.streak);
        self.restarts.push_back(now);
        self.streak = self.streak.saturating_add(1);
        Decision::Restart { after: self.jitter.up_to(ceiling) }
    }

    fn forgive(&mut self) {
        self.restarts.clear();
        self.streak = 0;
        self.second_chance = false;
    }
}

// === impl SplitMix ===

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Anything between nothing and `ceiling`, both included.
    fn up_to(&mut self, ceiling: Duration) -> Duration {
        let nanos = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX);
        let random = self.next();
        Duration::from_nanos(nanos.checked_add(1).map_or(random, |n| random % n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy {
        base: Duration::from_millis(100),
        cap: Duration::from_secs(30),
        intensity: 5,
        window: Duration::from_secs(60),
        cool_down: Duration::from_secs(10),
        start_timeout: Duration::from_secs(30),
        abort_grace: Duration::from_secs(1),
        seed: Some(7),
    };

    const PANIC: Ending = Ending {
        exit: Exit::Panicked,
        ran: Duration::ZERO,
        stalled: Duration::ZERO,
        progressed: false,
        excused: false,
    };

    fn ledger(restart: Restart, policy: Policy) -> Ledger {
        Ledger::new(restart, policy, 0)
    }

    fn delay(decision: Decision) -> Duration {
        match decision {
            Decision::Restart { after } => after,
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn delays_double_up_to_the_cap() {
        let policy = Policy { intensity: usize::MAX, ..POLICY };
        let ceilings: Vec<u128> = (0..12).map(|streak| policy.ceiling(streak).as_millis()).collect();
        assert_eq!(ceilings, [0, 100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000]);
        assert_eq!(policy.ceiling(u32::MAX), policy.cap);

        // Full jitter: between nothing and the ceiling, and not always the same.
        let mut ledger = ledger(Restart::Permanent, policy);
        let now = Instant::now();
        let delays: Vec<Duration> = (0..200).map(|_| delay(ledger.on_exit(now, PANIC))).collect();
        assert_eq!(delays[0], Duration::ZERO);
        for (streak, delay) in (0..).zip(&delays) {
            assert!(*delay <= policy.ceiling(streak));
        }
        let late = &delays[20..];
        assert!(late.iter().any(|delay| *delay < policy.cap / 4));
        assert!(late.iter().any(|delay| *delay > policy.cap * 3 / 4));
    }

    #[test]
    fn decisions() {
        use Decision::{Escalate, Open, Stop};
        let progress = Ending { progressed: true, ..PANIC };
        let excused = Ending { excused: true, ..PANIC };
        let ended = Ending { exit: Exit::Ended, ..PANIC };
        let long = Ending { ran: POLICY.window, ..PANIC };
        let restart = |decision: Decision| matches!(decision, Decision::Restart { .. });
        let run = |kind, endings: &[(u64, Ending)]| -> Vec<Decision> {
            let (start, mut ledger) = (Instant::now(), ledger(kind, POLICY));
            endings
                .iter()
                .map(|(at, ending)| ledger.on_exit(start + Duration::from_secs(*at), *ending))
                .collect()
        };

        // Five restarts, then the circuit; five more, then the end.
        let all = run(Restart::Permanent, &[(0, PANIC); 12]);
        assert!(all[..5].iter().copied().all(restart));
        assert_eq!(all[5], Open);
        assert!(all[6..11].iter().copied().all(restart));
        assert_eq!(all[11], Escalate);
        // Each chance begins at once.
        assert_eq!((delay(all[0]), delay(all[6])), (Duration::ZERO, Duration::ZERO));

        // Progress forgives everything, the second chance included.
        let mut endings = vec![(0, PANIC); 6];
        endings.push((0, progress));
        endings.extend([(0, PANIC); 5]);
        assert_eq!(run(Restart::Permanent, &endings)[11], Open);

        // So does a long life; exits further apart than the window open nothing.
        let mut endings = vec![(0, PANIC); 5];
        endings.push((61, long));
        assert_eq!(delay(run(Restart::Permanent, &endings)[5]), Duration::ZERO);
        let apart: Vec<_> = (0..40).map(|n| (n * 13, PANIC)).collect();
        assert!(run(Restart::Permanent, &apart).into_iter().all(restart));

        // What a message is to blame for is never counted.
        assert!(run(Restart::Permanent, &[(0, excused); 50]).into_iter().all(restart));

        // Stalls are as far apart as their timeout, and counted all the same.
        let stall = Ending { exit: Exit::Stalled, stalled: Duration::from_secs(90), ..PANIC };
        let stalls: Vec<_> = (0..6).map(|n| (n * 90, stall)).collect();
        assert_eq!(run(Restart::Permanent, &stalls)[5], Open);

        assert_eq!(run(Restart::Transient, &[(0, ended)]), [Stop]);
        assert!(restart(run(Restart::Transient, &[(0, PANIC)])[0]));
        assert!(restart(run(Restart::Permanent, &[(0, ended)])[0]));
        assert_eq!(run(Restart::Temporary, &[(0, PANIC)]), [Stop]);
    }
}
