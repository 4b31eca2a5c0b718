//! Values that are the message's: what is known of the request it came by.

use watershed_stage::Origin;
use watershed_telemetry::edit::AttributeValue;

/// A value to look up for each message.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) from: From,
    /// The value where there is none.
    pub(super) default: Option<AttributeValue>,
}

/// Where to look.
#[derive(Debug)]
pub(super) enum From {
    /// A header that the receiver kept.
    Metadata(String),
    /// What the authenticator says of the sender.
    Auth(String),
    /// The sender's address, without port.
    ClientAddress,
}

// === impl Given ===

impl Given {
    pub(super) fn value(&self, origin: &Origin) -> Option<AttributeValue> {
        self.from.text(origin).map(AttributeValue::from).or_else(|| self.default.clone())
    }
}

// === impl From ===

impl From {
    /// What `from_context` names. As in otelcol, what has no known prefix is a header.
    pub(super) fn new(name: &str) -> Self {
        if name == "client.address" {
            return Self::ClientAddress;
        }
        match name.strip_prefix("auth.") {
            Some(attribute) => Self::Auth(attribute.to_owned()),
            None => Self::Metadata(name.strip_prefix("metadata.").unwrap_or(name).to_owned()),
        }
    }

    fn text(&self, origin: &Origin) -> Option<String> {
        match self {
            Self::Metadata(key) => {
                let values: Vec<&str> = origin.metadata.get(key).collect();
                (!values.is_empty()).then(|| values.join(";"))
            }
            Self::Auth(attribute) => origin.auth.as_ref()?.0.get(attribute).cloned(),
            // An IPv4 address is one whichever socket it came by.
            Self::ClientAddress => origin.peer.map(|peer| peer.ip().to_canonical().to_string()),
        }
    }
}
