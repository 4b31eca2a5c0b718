//! What outlives a panic of a stage: it is lent to one incarnation after the other.

use std::any::Any;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use parking_lot::Mutex;

/// A place for what a stage must not lose by its own panic, such as the spans a sampler holds. It belongs to the cell;
/// each incarnation finds on it what the one before has left.
///
/// The stage's part of the bargain: whatever may panic comes before the first change of a message or a tick, so that
/// what is left there is whole, and a message that comes again is not there yet.
#[derive(Clone, Default)]
pub struct Shelf(Slot);

type Slot = Arc<Mutex<Option<Box<dyn Any + Send>>>>;

/// Something off a shelf, which goes back there when it is dropped.
pub struct Lent<T: Default + Send + 'static> {
    thing: Box<T>,
    slot: Slot,
}

// === impl Shelf ===

impl Shelf {
    /// What was put back last; what `T` begins as where there is nothing, or something else.
    pub fn take<T: Default + Send + 'static>(&self) -> Lent<T> {
        let thing = self.0.lock().take().and_then(|thing| thing.downcast().ok());
        Lent { thing: thing.unwrap_or_default(), slot: self.0.clone() }
    }
}

// === impl Lent ===

impl<T: Default + Send> Deref for Lent<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.thing
    }
}

impl<T: Default + Send> DerefMut for Lent<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.thing
    }
}

impl<T: Default + Send> Drop for Lent<T> {
    fn drop(&mut self) {
        let thing = std::mem::take(&mut self.thing);
        let before = self.slot.lock().replace(thing);
        drop(before);
    }
}
