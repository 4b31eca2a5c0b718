//! What the authenticators share: reading a header, telling nothing, comparing in constant time.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};
use watershed_stage::Unauthenticated;

/// What is compared in place of a secret: as long as any other, so that no comparison tells a length.
pub(crate) type Fingerprint = [u8; 32];

/// The fingerprint of a secret.
pub(crate) fn fingerprint(secret: &[u8]) -> Fingerprint {
    Sha256::digest(secret).into()
}

/// Whether a secret is one of these. All of them are looked at, whichever it is.
pub(crate) fn is_one_of(secret: &[u8], known: &[Fingerprint]) -> bool {
    let secret = fingerprint(secret);
    known.iter().fold(Choice::from(0), |found, each| found | each.ct_eq(&secret)).into()
}

/// The credentials in a header, without their scheme (RFC 9110, 11.4). An empty scheme is none at all.
pub(crate) fn credentials<'a>(
    headers: &'a HeaderMap,
    header: &HeaderName,
    scheme: &str,
    challenge: &HeaderValue,
) -> Result<&'a [u8], Unauthenticated> {
    let mut values = headers.get_all(header).iter();
    let value = match (values.next(), values.next()) {
        (Some(value), None) => value.as_bytes(),
        (None, _) => return Err(missing(challenge)),
        (Some(_), Some(_)) => return Err(wrong(challenge)),
    };
    if scheme.is_empty() {
        return Ok(value);
    }
    let rest = value
        .split_at_checked(scheme.len())
        .filter(|(named, _)| named.eq_ignore_ascii_case(scheme.as_bytes()));
    match rest {
        Some((_, rest)) if rest.first() == Some(&b' ') => Ok(rest.trim_ascii()),
        _ => Err(wrong(challenge)),
    }
}

/// Nothing was sent to prove anything by.
fn missing(challenge: &HeaderValue) -> Unauthenticated {
    Unauthenticated { reason: "no credentials were sent", ..wrong(challenge) }
}

/// Whatever was sent proves nothing; what is wrong with it is nobody's business.
pub(crate) fn wrong(challenge: &HeaderValue) -> Unauthenticated {
    let challenge = Some(challenge.clone());
    Unauthenticated { reason: "authentication didn't succeed", challenge, retry_after: None }
}

/// What was sent is not looked at now.
pub(crate) fn not_now(wait: Duration) -> Unauthenticated {
    let reason = "passwords that are new here are not checked for a moment, since one was wrong";
    Unauthenticated { reason, challenge: None, retry_after: Some(wait) }
}

/// A value for a header that is never printed. `None` if it can not stand in one.
pub(crate) fn secret_value(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}
