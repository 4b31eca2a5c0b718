//! A `_bulk` body, and the documents in it.

use super::json::Out;
use super::layout::Layouts;

/// How many documents a body has at most, those that cannot be written among them: an item may be two bytes, and what is
/// remembered of its document twenty times as many.
const MOST_DOCUMENTS: usize = 1 << 16;

/// A `_bulk` body.
#[derive(Debug, Default)]
pub struct Bulk {
    /// Pairs of lines.
    pub body: Vec<u8>,
    /// The documents in it, in order, among them those that cannot be written.
    pub documents: Vec<Document>,
    /// The items of those that have several.
    pub(super) points: Vec<u32>,
    layouts: Layouts,
}

/// A document in a body.
#[derive(Debug)]
pub struct Document {
    /// Its number in its request.
    pub number: u32,
    /// Where it ends in the body.
    pub end: usize,
    items: Items,
    /// It has an id of its own, by which a second copy is known.
    pub has_id: bool,
    /// It cannot be written, and is not in the body.
    pub flaw: Option<Flaw>,
}

/// Items by their number in the request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Items {
    One(u32),
    /// A range of [`Bulk::points`].
    Several(u32, u32),
}

/// Why there is no document for an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// The mode is not among the allowed ones, or none at all.
    Mode,
    /// The mode has no form for this signal.
    Signal,
    /// The body is no map, and should be the document.
    Body,
    /// A histogram that accumulates: Elasticsearch's histograms are those of a span of time.
    Temporality,
    /// A data point of this name, with these attributes and this time is in the document already.
    Twice,
}

/// The body is full, and this is the number of the first document that is not in it.
pub(super) struct Full(pub(super) u32);

/// A body in the making.
pub(super) struct Page<'b> {
    pub(super) bulk: &'b mut Bulk,
    /// Documents so far, those that are left out included.
    documents: u32,
    /// Items so far.
    items: u32,
    from: u32,
    is_done: &'b dyn Fn(u32) -> bool,
    max_bytes: usize,
}

// === impl Flaw ===

impl Flaw {
    /// What to call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mode => "mapping_mode",
            Self::Signal => "mapping_mode_signal",
            Self::Body => "body_no_map",
            Self::Temporality => "cumulative_histogram",
            Self::Twice => "duplicate_data_point",
        }
    }
}

// === impl Bulk ===

impl Bulk {
    /// An empty body with room for so many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { body: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// Makes it empty, and keeps its room.
    pub fn clear(&mut self) {
        self.body.clear();
        self.documents.clear();
        self.points.clear();
    }

    /// How much memory it takes, in bytes.
    pub fn size(&self) -> u64 {
        let list =
            size_of::<Document>() * self.documents.capacity() + size_of::<u32>() * self.points.capacity();
        (self.body.capacity() + list) as u64
    }

    /// The items that a document was made of, by their number in the request.
    pub fn items<'a>(&'a self, document: &'a Document) -> &'a [u32] {
        match &document.items {
            Items::One(item) => std::slice::from_ref(item),
            Items::Several(from, to) => self.points.get(*from as usize..*to as usize).unwrap_or_default(),
        }
    }
}

// === impl Page ===

impl<'b> Page<'b> {
    /// What comes from document `from` on and is not done goes into a body of at most so many bytes, or one document.
    pub(super) fn new(
        bulk: &'b mut Bulk,
        from: u32,
        is_done: &'b dyn Fn(u32) -> bool,
        max_bytes: usize,
    ) -> Self {
        Self { bulk, documents: 0, items: 0, from, is_done, max_bytes }
    }

    /// The number of the next item.
    pub(super) fn item(&mut self) -> u32 {
        self.items += 1;
        self.items - 1
    }

    /// Takes a document into the body, unless it is done or has to wait for the next body.
    pub(super) fn put(
        &mut self,
        items: Items,
        write: impl FnOnce(&mut Out, &mut Layouts) -> Result<bool, Flaw>,
    ) -> Result<(), Full> {
        let number = self.documents;
        self.documents += 1;
        if number < self.from || (self.is_done)(number) {
            return Ok(());
        }
        let Bulk { body, documents, layouts, .. } = &mut *self.bulk;
        if documents.len() >= MOST_DOCUMENTS {
            return Err(Full(number));
        }
        let start = body.len();
        let written = write(body, layouts);
        if written.is_err() {
            body.truncate(start);
        }
        if body.len() > self.max_bytes && start > 0 {
            body.truncate(start);
            return Err(Full(number));
        }
        let (has_id, flaw) = (written == Ok(true), written.err());
        documents.push(Document { number, end: body.len(), items, has_id, flaw });
        Ok(())
    }
}
