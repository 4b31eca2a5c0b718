//! Edits of attributes, on the wire.
//!
//! The actions and their meaning are those of otelcol's resource and attributes processors, and so is the
//! selection of the items they are for.
//!
//! Source: opentelemetry-collector-contrib `internal/coreinternal/attraction`, `internal/filter`.

mod action;
mod draft;
mod revision;
mod select;
mod text;
mod value;

use smallvec::SmallVec;

pub use action::{Action, Conversion, Source};
pub use select::{Criteria, Library, Selection, Severity, Texts, Wanted};
pub use text::text;
pub use value::AttributeValue;

use crate::Payload;
use crate::edit::action::Keys;
use crate::edit::draft::Draft;
use crate::edit::revision::{Part, Revision};
use crate::schema::{Kind, Rule};
use crate::wire;

/// Whose attributes are edited.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Target {
    /// Each resource's. A group without a resource gets one if an action adds an attribute.
    Resource,
    /// Each instrumentation scope's. A group without a scope gets one if an action adds an attribute.
    Scope,
    /// Each span's, data point's or log record's.
    Item,
}

/// A list of actions to apply in order to the attributes of one target.
#[derive(Clone, Debug)]
pub struct AttributeEdits {
    target: Target,
    actions: Vec<Action>,
    selection: Selection,
    keys: Keys,
}

/// What edits made of a payload.
#[derive(Clone, Debug)]
pub struct Edited {
    /// The payload with the edits made.
    pub payload: Payload,
    /// How many values could not be converted and were left as they are.
    pub unconverted: u64,
}

impl AttributeEdits {
    /// The actions see each other's effects: an update after an insert of the same key applies.
    pub fn new(target: Target, actions: Vec<Action>) -> Self {
        let keys = Keys::of(&actions);
        Self { target, actions, selection: Selection::default(), keys }
    }

    /// Edits only what is selected. It is items that are: with any other target this changes nothing.
    #[must_use]
    pub fn only(self, selection: Selection) -> Self {
        Self { selection, ..self }
    }

    /// The payload with the edits made. Items and their order stay; a request in which nothing changes (setting
    /// the value that is there changes nothing) keeps its very bytes.
    pub fn apply(&self, payload: &Payload) -> Payload {
        self.apply_given(payload, &[]).payload
    }

    /// As [`apply`](Self::apply), with the values that [`Source::Given`] speaks of; `None` is no value.
    pub fn apply_given(&self, payload: &Payload, given: &[Option<AttributeValue>]) -> Edited {
        let kind = Kind::request(payload.signal());
        let mut draft = Draft::default();
        let requests = payload.requests().iter().map(|request| {
            let mut revision = Revision::new(request);
            self.revise(&mut revision, &mut draft, given, kind);
            revision.finish().unwrap_or_else(|| request.clone())
        });
        let payload = Payload::from_validated(payload.signal(), requests.collect(), payload.items());
        Edited { payload, unconverted: draft.unconverted }
    }

    fn revise<'a>(
        &'a self,
        revision: &mut Revision<'a>,
        draft: &mut Draft<'a>,
        given: &'a [Option<AttributeValue>],
        kind: Kind,
    ) {
        let keys = &self.keys;
        let owner = match self.target {
            Target::Resource => Kind::Resource,
            Target::Scope => Kind::Scope,
            Target::Item => {
                return self.selection.walk(revision, kind, &mut |revision, kind, range| {
                    draft.begin(kind);
                    draft.read(revision, range.clone(), keys);
                    draft.apply(&self.actions, given);
                    draft.write(revision, range, true);
                });
            }
        };
        // A resource or scope is edited through the group around it: it may be absent, or in several pieces.
        revision.walk(kind, revision.all(), &holds(owner), &mut |revision, _, range| {
            draft.begin(owner);
            let pieces: SmallVec<[Part<'_>; 1]> =
                revision.parts(range.clone(), |number, _| number == OWNER).collect();
            pieces.iter().for_each(|piece| draft.read(revision, piece.body(), keys));
            draft.apply(&self.actions, given);
            for (index, piece) in pieces.iter().enumerate() {
                let is_last = index + 1 == pieces.len();
                revision.inside(piece, |revision| draft.write(revision, piece.body(), is_last));
            }
            if pieces.is_empty() && draft.adds() {
                let mut message = Vec::new();
                draft.put_added(&mut message);
                revision.replace(range.start..range.start, |out| wire::put_bytes_field(out, OWNER, &message));
            }
        });
    }
}

/// The field of a resource or scope group that holds the resource or scope.
const OWNER: u32 = 1;

/// Whether a kind is the group around a resource, or a scope.
fn holds(owner: Kind) -> impl Fn(Kind) -> bool {
    move |kind| kind.rule(OWNER) == Rule::Message(owner)
}
