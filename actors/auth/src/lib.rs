//! Extensions that say who may come in, and how to get in elsewhere, under otelcol's ids.
//!
//! Secrets are compared in constant time, by digests of one length, and appear in no log, no error and no `Debug`.
//! What a sender is told does not say which part of its credentials was wrong.

mod basic;
mod bearer;
mod credentials;
mod file;
mod headers_setter;
mod htpasswd;
mod oauth2;

use watershed_stage::Registry;

/// Adds the kinds of this family to a registry.
#[must_use]
pub fn register(registry: Registry) -> Registry {
    registry
        .extension::<bearer::Bearer>("bearertokenauth", &["bearer_token_auth"])
        .extension::<basic::Basic>("basicauth", &["basic_auth"])
        .extension::<headers_setter::HeadersSetter>("headers_setter", &[])
        .extension::<oauth2::OAuth2>("oauth2client", &["oauth2_client"])
}
