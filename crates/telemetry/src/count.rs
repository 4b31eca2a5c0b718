//! Counting items by walking the tags that lead to them.

use crate::message::Message;
use crate::schema::{Kind, Rule};

/// How many spans, data points or log records a message holds. `Metric` alone has no list, but a oneof of five.
pub(crate) fn items(kind: Kind, message: Message<'_>) -> usize {
    if let Some(list) = kind.list() {
        let elements = message.fields().filter(|field| field.number == list.number);
        match list.rule {
            Rule::List(kind) => {
                elements.filter_map(|field| field.bytes()).map(|bytes| items(kind, Message::new(bytes))).sum()
            }
            _ => elements.count(),
        }
    } else {
        live_arm(kind, message).map_or(0, |(_, kind, arm)| items(kind, arm))
    }
}

/// The arm of a `Metric` that holds its data points: the field's number, the kind of message, and the message.
pub(crate) fn live_arm(kind: Kind, message: Message<'_>) -> Option<(u32, Kind, Message<'_>)> {
    if kind != Kind::Metric {
        return None;
    }
    let (field, arm) = message.oneof(|number| matches!(kind.rule(number), Rule::Arm(_)))?;
    Some((field.number, kind.rule(field.number).kind()?, arm))
}
