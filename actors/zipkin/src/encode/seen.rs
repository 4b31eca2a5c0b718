//! Which keys stand in an object already: a key twice would be one too many.

use std::collections::HashSet;

/// How many keys are looked through one by one.
const FEW: usize = 64;

/// Keys, once each.
#[derive(Default)]
pub(super) struct Seen<'a> {
    /// A bit for each kind of key that is there: most that come are of a kind that is not.
    kinds: u64,
    few: Vec<&'a str>,
    /// All of them, where they are not few.
    many: HashSet<&'a str>,
}

impl<'a> Seen<'a> {
    pub(super) fn clear(&mut self) {
        self.kinds = 0;
        self.few.clear();
        self.many.clear();
    }

    pub(super) fn contains(&self, key: &str) -> bool {
        if self.many.is_empty() { self.few.contains(&key) } else { self.many.contains(key) }
    }

    /// Whether a key is new; then it is taken.
    pub(super) fn insert(&mut self, key: &'a str) -> bool {
        if self.few.len() == FEW {
            if self.many.is_empty() {
                self.many.extend(&self.few);
            }
            return self.many.insert(key);
        }
        let last = key.bytes().next_back().unwrap_or_default();
        let kind = 1 << ((usize::from(last) + 7 * key.len()) % 64);
        let is_new = self.kinds & kind == 0 || !self.few.contains(&key);
        if is_new {
            self.kinds |= kind;
            self.few.push(key);
        }
        is_new
    }
}
