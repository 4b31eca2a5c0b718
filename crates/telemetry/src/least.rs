//! How little can be sent of a payload at once: one item, with what every part repeats for it.

use crate::Payload;
use crate::count::live_arm;
use crate::message::Message;
use crate::schema::{Kind, Rule};
use crate::split::header_fields;
use crate::wire;

/// A container on the way to an item.
type Step<'a> = (Kind, Message<'a>);

/// What lies in a container on the way to the items.
enum Child<'a> {
    Container(Step<'a>),
    /// An item of so many bytes, with its tag and length.
    Item(usize),
}

/// The smallest part that a container, or several of them, can be cut into. It has one item, or there is none.
type Least = Option<usize>;

/// Something does not repeat what all of it was to repeat.
struct Differs;

/// See [`Payload::least_beside`].
pub(crate) fn least_beside(payload: &Payload, one: &Payload) -> Option<usize> {
    let mut way = Vec::new();
    groups(one).any(|(_, group)| lead(group, &mut way));
    let mut repeated = 0;
    let last = way.iter().position(|step| {
        repeated += header_len(*step);
        repeated > one.bytes() / 8 * 7
    })?;
    smallest(groups(payload), way.get(..=last)?).ok()?
}

fn groups(payload: &Payload) -> impl Iterator<Item = (u32, Child<'_>)> {
    let kind = Kind::request(payload.signal());
    payload.requests().iter().flat_map(move |request| children((kind, Message::new(request))))
}

/// Goes down to the first item and notes the containers that it is in; whether there is one.
fn lead<'a>(child: Child<'a>, way: &mut Vec<Step<'a>>) -> bool {
    let Child::Container(step) = child else { return true };
    way.push(step);
    let found = children(step).any(|(_, child)| lead(child, way));
    if !found {
        way.pop();
    }
    found
}

/// The smallest part of these, each of which has this field number, if all that have items are under what is `shared`.
fn smallest<'a>(
    mut all: impl Iterator<Item = (u32, Child<'a>)>,
    shared: &[Step<'_>],
) -> Result<Least, Differs> {
    all.try_fold(None, |smallest: Least, (number, child)| {
        let size = match child {
            Child::Item(size) => Some(size),
            Child::Container(step) => least(step, shared)?.map(|size| wire::bytes_field_len(number, size)),
        };
        Ok(smallest.into_iter().chain(size).min())
    })
}

/// The same of a container, without its tag and length.
fn least(step: Step<'_>, shared: &[Step<'_>]) -> Result<Least, Differs> {
    let (same, below) = match shared.split_first() {
        Some((first, below)) => (header(*first).eq(header(step)), below),
        None => (true, shared),
    };
    match smallest(children(step), below) {
        Ok(None) => Ok(None),
        Ok(Some(size)) if same => Ok(Some(header_len(step) + size)),
        _ => Err(Differs),
    }
}

/// What each part repeats of a container.
fn header<'a>((kind, message): Step<'a>) -> impl Iterator<Item = &'a [u8]> {
    header_fields(kind, message).map(|field| field.raw)
}

fn header_len(step: Step<'_>) -> usize {
    header(step).map(<[u8]>::len).sum()
}

/// What lies in a container, each with its field's number.
fn children<'a>((kind, message): Step<'a>) -> impl Iterator<Item = (u32, Child<'a>)> {
    let arm = live_arm(kind, message).map(|(number, kind, arm)| (number, Child::Container((kind, arm))));
    let elements = kind.list().into_iter().flat_map(move |list| {
        let elements = message.fields().filter(move |field| field.number == list.number);
        elements.map(move |field| match list.rule {
            Rule::List(kind) => {
                let message = Message::new(field.bytes().unwrap_or_default());
                (field.number, Child::Container((kind, message)))
            }
            _ => (field.number, Child::Item(field.raw.len())),
        })
    });
    arm.into_iter().chain(elements)
}
