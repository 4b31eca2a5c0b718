//! What a journal is told when it is opened.

/// How a journal is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The most that all its files may take together, in bytes. What is done is written down even beyond it, since
    /// that is what frees room.
    pub max_bytes: u64,
    /// When a segment is full, in bytes. A commit is never split: one that is larger has a segment of its own.
    pub segment_bytes: u64,
    /// The most that is held in memory because it is not known to be on the disk, in bytes: beyond it
    /// [`append`](crate::Journal::append) refuses until [`sync`](crate::Journal::sync) succeeds.
    pub max_unsynced: u64,
    /// How payloads are stored.
    pub compression: Compression,
    /// Whom each record is owed to: between one and 64 different names. Completion is kept by name, so that a
    /// branch may move to another place in the list between two openings.
    pub branches: Vec<String>,
    /// What happens when `max_bytes` are used.
    pub on_full: OnFull,
}

/// How payloads are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// As they are.
    #[default]
    None,
    /// As an LZ4 block, where that is smaller.
    Lz4,
}

/// What happens when a journal is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFull {
    /// What is new is refused.
    #[default]
    Refuse,
    /// What is oldest is given up, a segment at a time, and counted ([`given_up`](crate::Journal::given_up)).
    DropOldest,
}

/// How many branches a journal can have: their completion of one record is the bits of one word.
pub(crate) const MAX_BRANCHES: usize = 64;

/// The longest name of a branch, in bytes.
const MAX_NAME: usize = 1024;

// === impl Options ===

impl Options {
    /// The default for `max_bytes`.
    pub const MAX_BYTES: u64 = 1 << 30;
    /// The default for `segment_bytes`.
    pub const SEGMENT_BYTES: u64 = 16 << 20;
    /// The default for `max_unsynced`.
    pub const MAX_UNSYNCED: u64 = 64 << 20;

    /// The defaults, for records owed to `branches`.
    pub fn new(branches: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            max_bytes: Self::MAX_BYTES,
            segment_bytes: Self::SEGMENT_BYTES,
            max_unsynced: Self::MAX_UNSYNCED,
            compression: Compression::default(),
            branches: branches.into_iter().map(Into::into).collect(),
            on_full: OnFull::default(),
        }
    }

    /// Why a journal can not be kept like this, if it can not.
    pub(crate) fn check(&self) -> Result<(), String> {
        let names = &self.branches;
        let twice = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name));
        if names.is_empty() || names.len() > MAX_BRANCHES {
            return Err(format!("{} branches: there must be between 1 and {MAX_BRANCHES}", names.len()));
        }
        if let Some((_, name)) = twice {
            return Err(format!("branch `{name}` is named twice"));
        }
        if names.iter().any(|name| name.is_empty() || name.len() > MAX_NAME) {
            return Err(format!("a branch's name must have between 1 and {MAX_NAME} bytes"));
        }
        Ok(())
    }
}
