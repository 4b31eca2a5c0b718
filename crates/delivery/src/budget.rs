//! The memory of a role, granted in bytes before it is taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

/// The memory of one role, in bytes, kept in two ledgers.
///
/// The *physical* ledger counts every buffer once: [`Budget::try_take`] at the edge, before the bytes are read,
/// [`Permit`]s shared by everyone who holds the buffer. The *logical* ledger counts what each queue holds: a
/// [`Share`] guarantees a queue its part and lets it borrow from what no share has reserved, so the queue of a
/// dead branch can never take what the others were promised.
///
/// Growth inside never fails ([`Budget::overdraw`]): the edge refuses until the debt is paid back.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    used: AtomicU64,
    refused: AtomicU64,
    peak: AtomicU64,
    /// The backstop: set while the process as a whole is above its limit, whatever the ledgers say.
    alarm: AtomicBool,
    /// What connections' windows hold of the physical ledger.
    windows: AtomicU64,
    /// Bytes of the logical ledger that no share has reserved or borrowed; below zero while an empty share
    /// carries a message larger than what is left.
    unreserved: Mutex<i64>,
}

/// Bytes granted by a [`Budget`]; clones share one grant, and the last one to drop returns it.
#[derive(Clone, Debug)]
pub struct Permit {
    grant: Arc<Grant>,
}

#[derive(Debug)]
struct Grant {
    budget: Arc<Budget>,
    bytes: AtomicU64,
}

/// A connection's window, charged until it is dropped.
#[derive(Debug)]
pub struct Window {
    bytes: u64,
    permit: Permit,
}

/// Why a budget granted nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exhausted {
    /// Not now.
    #[error("the memory budget is used up")]
    ForNow,
    /// Not ever: more than the whole budget.
    #[error("larger than the whole memory budget")]
    ForEver,
}

/// A queue's part of the logical ledger: `reserved` bytes of its own, more while nobody else needs them.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    reserved: u64,
    used: Mutex<u64>,
}

/// Bytes charged to a [`Share`], returned on drop.
#[derive(Debug)]
pub struct Charge {
    share: Arc<Share>,
    bytes: u64,
}

// === impl Budget ===

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            alarm: AtomicBool::new(false),
            windows: AtomicU64::new(0),
            unreserved: Mutex::new(signed(limit)),
        })
    }

    /// Takes `bytes`, or says at once that there is no room. Never waits.
    pub fn try_take(self: &Arc<Self>, bytes: u64) -> Result<Permit, Exhausted> {
        self.check(bytes)?;
        let limit = if self.alarm.load(Ordering::Relaxed) { self.limit / 2 } else { self.limit };
        let taken = self.used.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |used| {
            // What takes nothing needs no room: an empty request is answered however full it is.
            used.checked_add(bytes).filter(|total| *total <= limit || bytes == 0)
        });
        match taken {
            Ok(used) => {
                self.peak.fetch_max(used + bytes, Ordering::Relaxed);
                Ok(Permit::new(self, bytes))
            }
            Err(_) => Err(self.refuse(Exhausted::ForNow)),
        }
    }

    /// Takes `bytes` whether there is room or not: for what is already inside and may not be lost.
    pub fn overdraw(self: &Arc<Self>, bytes: u64) -> Permit {
        self.add(bytes);
        Permit::new(self, bytes)
    }

    /// The limit, in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The most that one grant can ever have, in bytes. Windows stay for as long as their connections: what they
    /// hold can not be waited for.
    pub fn most(&self) -> u64 {
        self.limit.saturating_sub(self.windows.load(Ordering::Relaxed))
    }

    /// What is taken now, in bytes; above the limit while overdrawn.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    /// The most that was ever taken at once, in bytes.
    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// How often [`Budget::try_take`] and [`Permit::try_cover`] said no.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Takes `bytes` for a connection's window: what a peer may send ahead of any permit. All windows together
    /// take a quarter of the budget at most, so that connections that send nothing leave room for those that do.
    pub fn try_window(self: &Arc<Self>, bytes: u64) -> Option<Window> {
        let taken = self.windows.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |windows| {
            windows.checked_add(bytes).filter(|total| *total <= self.limit / 4)
        });
        taken.ok().map(|_| Window { bytes, permit: self.overdraw(bytes) })
    }

    /// While set, only half of the budget is granted: the process as a whole is above its limit. Not less than
    /// half, since what refusing can not free (the host's own memory, pages the allocator keeps) must not stop the
    /// flow for ever.
    pub fn set_alarm(&self, on: bool) {
        self.alarm.store(on, Ordering::Relaxed);
    }

    /// Reserves up to `reserved` bytes of the logical ledger for one queue; less where less is left.
    pub fn share(self: &Arc<Self>, reserved: u64) -> Arc<Share> {
        let mut unreserved = self.unreserved.lock();
        let reserved = reserved.min(u64::try_from(*unreserved).unwrap_or(0));
        *unreserved -= signed(reserved);
        Arc::new(Share { budget: self.clone(), reserved, used: Mutex::new(0) })
    }

    /// Whether one grant can ever have as much.
    fn check(&self, bytes: u64) -> Result<(), Exhausted> {
        if bytes > self.most() { Err(self.refuse(Exhausted::ForEver)) } else { Ok(()) }
    }

    fn refuse(&self, exhausted: Exhausted) -> Exhausted {
        self.refused.fetch_add(1, Ordering::Relaxed);
        exhausted
    }

    fn add(&self, bytes: u64) {
        let used = self.used.fetch_add(bytes, Ordering::AcqRel) + bytes;
        self.peak.fetch_max(used, Ordering::Relaxed);
    }
}

// === impl Permit ===

impl Permit {
    fn new(budget: &Arc<Budget>, bytes: u64) -> Self {
        Self { grant: Arc::new(Grant { budget: budget.clone(), bytes: AtomicU64::new(bytes) }) }
    }

    /// What this grant holds, in bytes, all its clones together.
    pub fn bytes(&self) -> u64 {
        self.grant.bytes.load(Ordering::Acquire)
    }

    /// Makes the grant cover at least `bytes`, overdrawing the budget where it must.
    pub fn cover(&self, bytes: u64) {
        // Booked before it is held, so that nobody can give back what the budget has not counted yet.
        self.grant.budget.add(bytes);
        let held = self.grant.bytes.fetch_max(bytes, Ordering::AcqRel);
        self.grant.budget.used.fetch_sub(bytes.min(held), Ordering::AcqRel);
    }

    /// Makes the grant cover at least `bytes` if the budget has room for the difference. What can never be covered
    /// as a whole is refused [for ever](Exhausted::ForEver), however small the difference.
    pub fn try_cover(&self, bytes: u64) -> Result<(), Exhausted> {
        let held = self.bytes();
        if bytes > held {
            self.grant.budget.check(bytes)?;
            let more = self.grant.budget.try_take(bytes - held)?;
            // The new bytes move from `more` into this grant: `more` drops empty.
            self.grant.bytes.fetch_add(more.grant.bytes.swap(0, Ordering::AcqRel), Ordering::AcqRel);
        }
        Ok(())
    }

    /// Gives back all but `bytes`, once what was asked for in advance is known to be less.
    pub fn trim(&self, bytes: u64) {
        let held = self.grant.bytes.fetch_min(bytes, Ordering::AcqRel);
        self.grant.budget.used.fetch_sub(held.saturating_sub(bytes), Ordering::AcqRel);
    }

    /// The budget this was granted by.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.grant.budget
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.permit.budget().windows.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(*self.bytes.get_mut(), Ordering::AcqRel);
    }
}

// === impl Share ===

impl Share {
    /// Charges `bytes` to this share, borrowing what exceeds its reserve, or says that there is no room.
    ///
    /// An empty share takes one message of any size: a message that was admitted must have a way through.
    pub fn try_charge(self: &Arc<Self>, bytes: u64) -> Option<Charge> {
        let mut used = self.used.lock();
        let total = used.checked_add(bytes)?;
        let borrow = self.borrowed(total) - self.borrowed(*used);
        if borrow > 0 {
            let mut unreserved = self.budget.unreserved.lock();
            if *unreserved < signed(borrow) && *used > 0 {
                return None;
            }
            *unreserved -= signed(borrow);
        }
        *used = total;
        Some(Charge { share: self.clone(), bytes })
    }

    /// What this share holds now, in bytes.
    pub fn used(&self) -> u64 {
        *self.used.lock()
    }

    /// What this share may hold whatever the others do, in bytes.
    pub fn reserved(&self) -> u64 {
        self.reserved
    }

    fn borrowed(&self, used: u64) -> u64 {
        used.saturating_sub(self.reserved)
    }
}

// === impl Charge ===

impl Charge {
    /// Two charges that together are this one, the first of `bytes` at most.
    pub fn split(mut self, bytes: u64) -> (Self, Self) {
        let bytes = bytes.min(self.bytes);
        let rest = Self { share: self.share.clone(), bytes: self.bytes - bytes };
        self.bytes = bytes;
        (self, rest)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut used = self.share.used.lock();
        let rest = used.saturating_sub(self.bytes);
        let repaid = self.share.borrowed(*used) - self.share.borrowed(rest);
        *used = rest;
        if repaid > 0 {
            *self.share.budget.unreserved.lock() += signed(repaid);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        *self.budget.unreserved.lock() += signed(self.reserved);
    }
}

/// Byte counts fit an `i64`: eight exabytes are more than any machine's memory.
fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
