//! `bearertokenauth`: whoever knows a token may come in (RFC 6750, 2.1). With another header, an API key.

use std::sync::Arc;

use futures_util::future::{FutureExt as _, LocalBoxFuture};
use http::{HeaderMap, HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::Deserialize;
use watershed_stage::{
    AuthError, ClientAuth, Env, Extension, Failure, Headers, Identity, KeyError, Origin, Provided, Role,
    ServerAuth, Unauthenticated,
};

use crate::credentials::{Fingerprint, credentials, fingerprint, is_one_of, secret_value, wrong};
use crate::file::Source;

/// Knows tokens, to let in by and to get in by.
pub(crate) struct Bearer {
    header: HeaderName,
    scheme: String,
    challenge: HeaderValue,
    tokens: Source<Tokens>,
}

/// Settings of `bearertokenauth`, under otelcol's keys. They hold tokens: never printed.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// The header that carries the token.
    header: String,
    /// What stands before the token in it; empty for the token alone.
    scheme: String,
    /// The token. It, `tokens` or `filename` is required.
    token: Option<String>,
    /// Several tokens. All of them let in; the first is sent.
    tokens: Vec<String>,
    /// A file with a token on each line, read again when it changes. All of them let in; the first is sent.
    filename: Option<String>,
}

struct Tokens {
    known: Vec<Fingerprint>,
    /// What an exporter sends.
    sent: HeaderValue,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        let (header, scheme) = ("Authorization".into(), "Bearer".into());
        Self { header, scheme, token: None, tokens: Vec::new(), filename: None }
    }
}

impl watershed_stage::Settings for Settings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = Vec::new();
        if self.header.parse::<HeaderName>().is_err() {
            errors.push(KeyError::new("header", "is not a name of a header"));
        }
        if !self.scheme.bytes().all(|byte| byte.is_ascii_graphic()) {
            errors.push(KeyError::new("scheme", "must be one word, without blanks"));
        }
        match (&self.token, &self.tokens[..], &self.filename) {
            (None, [], None) => errors
                .push(KeyError::new("", "no bearer token provided: set `token`, `tokens` or `filename`")),
            (Some(_), [], None) | (None, [_, ..], None) | (None, [], Some(_)) => {}
            (Some(_), [_, ..], None) => {
                errors.push(KeyError::new("tokens", "either tokens or token should be provided, not both"));
            }
            (_, _, Some(_)) => {
                errors.push(KeyError::new(
                    "filename",
                    "goes with neither `token` nor `tokens`: keep one of them",
                ));
            }
        }
        let unfit = |token: &String| token.is_empty() || secret_value(token).is_none();
        if self.token.as_ref().is_some_and(unfit) {
            errors.push(KeyError::new("token", "is empty, or has characters that no header may hold"));
        }
        if self.tokens.iter().any(unfit) {
            errors.push(KeyError::new("tokens", "one is empty, or has characters that no header may hold"));
        }
        errors
    }
}

// === impl Tokens ===

impl Tokens {
    fn new<'a>(scheme: &str, tokens: impl Iterator<Item = &'a str> + Clone) -> Result<Self, String> {
        let first = tokens.clone().next().ok_or("no bearer token provided")?;
        let sent = if scheme.is_empty() { first.to_owned() } else { format!("{scheme} {first}") };
        let sent = secret_value(&sent).ok_or("the first token has characters that no header may hold")?;
        Ok(Self { known: tokens.map(|token| fingerprint(token.as_bytes())).collect(), sent })
    }
}

// === impl Bearer ===

impl Extension for Bearer {
    type Settings = Settings;

    fn roles(_: &Settings) -> &'static [Role] {
        &[Role::ServerAuth, Role::ClientAuth]
    }

    fn build(settings: &Arc<Settings>, _: &Env) -> Result<Provided, Failure> {
        let this = Arc::new(Self::new(settings)?);
        Ok(Provided { server_auth: Some(this.clone()), client_auth: Some(this), ..Provided::default() })
    }
}

impl Bearer {
    fn new(settings: &Settings) -> Result<Self, Failure> {
        let scheme = settings.scheme.clone();
        let tokens = if let Some(path) = &settings.filename {
            let scheme = scheme.clone();
            Source::file("filename", path, move |text| {
                Tokens::new(&scheme, text.lines().map(str::trim).filter(|line| !line.is_empty()))
            })?
        } else {
            let tokens = settings.token.iter().chain(&settings.tokens).map(String::as_str);
            Source::fixed(Tokens::new(&scheme, tokens).map_err(Failure::new)?)
        };
        let header: HeaderName =
            settings.header.parse().map_err(|_| Failure::new("`header` is no header"))?;
        // An API key has no registered scheme; an answer of 401 has to name one all the same (RFC 9110, 15.5.2).
        let challenge =
            if scheme.is_empty() { format!("ApiKey header=\"{header}\"") } else { scheme.clone() };
        let challenge = challenge.parse().map_err(|_| Failure::new("`scheme` is no word"))?;
        Ok(Self { header, scheme, challenge, tokens })
    }
}

impl ServerAuth for Bearer {
    fn authenticate(&self, headers: &HeaderMap) -> Result<Identity, Unauthenticated> {
        let token = credentials(headers, &self.header, &self.scheme, &self.challenge)?;
        if !is_one_of(token, &self.tokens.get().known) {
            return Err(wrong(&self.challenge));
        }
        // A token says that somebody may come in, not who it is; but two tokens are two senders.
        let [a, b, c, d, ..] = fingerprint(token);
        let token = format!("{:08x}", u32::from_be_bytes([a, b, c, d]));
        Ok(Identity([("token".to_owned(), token)].into()))
    }
}

impl ClientAuth for Bearer {
    fn headers<'a>(&'a self, _: &'a Origin) -> LocalBoxFuture<'a, Result<Headers, AuthError>> {
        let headers = vec![(self.header.clone(), self.tokens.get().sent.clone())];
        std::future::ready(Ok(headers)).boxed_local()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::fs;
    use std::time::Duration;

    use watershed_stage::Settings as _;

    use super::*;

    fn settings(text: &str) -> Settings {
        toml::from_str(text).unwrap()
    }

    fn with(values: &[(&'static str, &str)]) -> HeaderMap {
        values.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn who_knows_a_token_may_come_in_and_nobody_else() {
        let bearer = Bearer::new(&settings("tokens = ['first', 'other-secret']")).unwrap();
        let mut senders = HashSet::new();
        for good in ["Bearer first", "bearer other-secret", "BEARER  first "] {
            let Identity(known) = bearer.authenticate(&with(&[("authorization", good)])).unwrap();
            senders.insert(known["token"].clone());
        }
        assert_eq!(senders.len(), 2, "two tokens are two senders");
        for bad in [
            "",
            "Bearer",
            "Bearer ",
            "Bearerfirst",
            "first",
            "Basic first",
            "Bearer firs",
            "Bearer first2",
            "Bearer First",
            "Bearer first other-secret",
            "\u{e4}",
        ] {
            let error = bearer.authenticate(&with(&[("authorization", bad)])).unwrap_err();
            assert_eq!(error.reason, "authentication didn't succeed", "{bad}");
            assert_eq!(error.challenge.unwrap(), "Bearer");
        }
        let twice = with(&[("authorization", "Bearer first"), ("authorization", "Bearer first")]);
        assert_eq!(bearer.authenticate(&twice).unwrap_err().reason, "authentication didn't succeed");
        let elsewhere = with(&[("x-api-key", "first")]);
        assert_eq!(bearer.authenticate(&elsewhere).unwrap_err().reason, "no credentials were sent");
    }

    #[tokio::test]
    async fn without_a_scheme_it_is_an_api_key() {
        let bearer = Bearer::new(&settings("token = 's3'\nheader = 'X-API-Key'\nscheme = ''")).unwrap();
        assert!(bearer.authenticate(&with(&[("x-api-key", "s3")])).is_ok());
        let error = bearer.authenticate(&with(&[("x-api-key", "Bearer s3")])).unwrap_err();
        assert_eq!(error.challenge.unwrap(), "ApiKey header=\"x-api-key\"");
        let sent = bearer.headers(&Origin::default()).await.unwrap();
        assert_eq!(sent[0], (HeaderName::from_static("x-api-key"), HeaderValue::from_static("s3")));
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_of_a_file_change_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens");
        fs::write(&path, "old\n\n  second \n").unwrap();
        let bearer = Bearer::new(&settings(&format!("filename = {path:?}"))).unwrap();
        let good = |token: &str| {
            bearer.authenticate(&with(&[("authorization", &format!("Bearer {token}"))])).is_ok()
        };
        assert!(good("old") && good("second") && !good("new") && !good(""));
        fs::write(&path, "new token of another length\n").unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!good("old") && good("new token of another length"));
        let sent = bearer.headers(&Origin::default()).await.unwrap();
        assert_eq!(sent[0].1, "Bearer new token of another length");
        assert_eq!(format!("{:?}", sent[0].1), "Sensitive");
    }

    #[test]
    fn settings_are_checked_without_telling_a_token() {
        let said = |text: &str| {
            settings(text).check().into_iter().map(|error| error.message).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(said("token = 'a'"), "");
        assert_eq!(said(""), "no bearer token provided: set `token`, `tokens` or `filename`");
        assert_eq!(
            said("token = 'a'\ntokens = ['b']"),
            "either tokens or token should be provided, not both"
        );
        assert!(said("token = 'a'\nfilename = 'b'").contains("keep one of them"));
        let said = said("token = \"s3cr\\net\"\nheader = 'a b'\nscheme = 'a b'");
        assert_eq!(said.split("; ").count(), 3, "{said}");
        assert!(!said.contains("s3cr"), "{said}");
    }
}
