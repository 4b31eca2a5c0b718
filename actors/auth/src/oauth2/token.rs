//! What an authorisation server answers (RFC 6749, 5).

use std::time::Duration;

use http::{HeaderValue, StatusCode};
use serde_json::Value;
use tokio::time::Instant;

use crate::credentials::secret_value;

/// A token, as it is sent.
pub(crate) struct Token {
    pub value: HeaderValue,
    pub(super) renew_at: Option<Instant>,
    expires_at: Option<Instant>,
}

/// The longest life that is believed. It keeps sums of times within the range of any clock.
const LONGEST: f64 = 10.0 * 365.0 * 86_400.0;

// === impl Token ===

impl Token {
    /// Reads a token that was asked for at `asked` and is renewed `buffer` before it expires. One whose life is short
    /// is renewed in the middle of it, or it would be renewed with every request.
    pub fn read(body: &[u8], asked: Instant, buffer: Duration) -> Result<Self, &'static str> {
        let answer: Value = serde_json::from_slice(body).map_err(|_| "the answer is no JSON")?;
        let token = answer["access_token"].as_str().filter(|token| !token.is_empty());
        let token = token.ok_or("the answer has no `access_token`")?;
        let scheme = match answer["token_type"].as_str() {
            // Servers write it in any case of letters; those who check tokens may be less liberal.
            None | Some("") => "Bearer",
            Some(named) if named.eq_ignore_ascii_case("bearer") => "Bearer",
            Some(other) => other,
        };
        let value = secret_value(&format!("{scheme} {token}"));
        let value = value.ok_or("the token has characters that no header may hold")?;
        // Some write the number as a string.
        let seconds = &answer["expires_in"];
        let seconds = seconds.as_f64().or_else(|| seconds.as_str()?.parse().ok());
        let life = seconds.filter(|seconds| *seconds > 0.0).map(|s| Duration::from_secs_f64(s.min(LONGEST)));
        Ok(Self {
            value,
            renew_at: life.map(|life| asked + life.saturating_sub(buffer).max(life / 2)),
            expires_at: life.map(|life| asked + life),
        })
    }

    /// When another should be asked for; `None` is never.
    pub fn renew_at(&self) -> Option<Instant> {
        self.renew_at
    }

    /// When it is good for nothing any more; `None` is never.
    pub fn expires_at(&self) -> Option<Instant> {
        self.expires_at
    }
}

/// What an answer that is no token says: the status and the error's code. The rest may be anything, also the secret.
pub(crate) fn refusal(status: StatusCode, body: &[u8]) -> String {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let is_code = |code: &&str| {
        code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    match answer["error"].as_str().filter(is_code) {
        Some(code) => format!("the server answered {status}: {code}"),
        None => format!("the server answered {status}"),
    }
}
