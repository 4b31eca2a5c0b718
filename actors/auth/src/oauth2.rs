//! `oauth2client`: exporters get in by a token that an authorisation server gives out for an id and a secret
//! (RFC 6749, 4.4).

mod endpoint;
mod token;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use form_urlencoded::{Serializer, byte_serialize};
use futures_util::future::{FutureExt as _, LocalBoxFuture};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, StatusCode};
use parking_lot::Mutex;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use tokio::time::{Instant, timeout};
use watershed_stage::{
    AuthError, ClientAuth, Env, Extension, Failure, Headers, Interval, KeyError, Origin, Provided, Role,
    TlsClientSettings,
};

use self::token::Token;
use crate::credentials::secret_value;
use crate::file::Source;

/// Gets tokens, and keeps the last one for as long as it is good.
pub(crate) struct OAuth2 {
    endpoint: Box<dyn TokenEndpoint>,
    id: Source<String>,
    secret: Source<String>,
    /// What is asked for, beside who asks.
    form: Vec<(String, String)>,
    timeout: Duration,
    expiry_buffer: Duration,
    /// Where id and secret stand: servers need not take both, and do not say which.
    in_body: AtomicBool,
    state: Mutex<State>,
    /// Held while a token is being got, so that nobody else asks for one.
    flight: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    /// The last failure, which answers for those who waited for it.
    failed: Option<(Instant, AuthError)>,
    /// When a token was last rejected by a destination,
    rejected: Option<Instant>,
    /// and whether the one before it was, shortly before: new ones do not help.
    hopeless: bool,
}

/// Posts a form (`application/x-www-form-urlencoded`) to the server that gives out tokens.
pub(crate) trait TokenEndpoint: Send + Sync {
    /// Status and body of the answer, whichever it is; or why there is none.
    fn post(
        &self,
        form: Bytes,
        authorization: Option<HeaderValue>,
    ) -> LocalBoxFuture<'_, Result<(StatusCode, Bytes), String>>;
}

/// Settings of `oauth2client`, under otelcol's keys. They hold a secret: never printed.
#[derive(serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// The id that the server knows this collector by. It or `client_id_file` is required.
    client_id: Option<String>,
    /// A file that holds it, read again when it changes.
    client_id_file: Option<String>,
    /// The secret that goes with it. It or `client_secret_file` is required.
    client_secret: Option<String>,
    /// A file that holds it, read again when it changes.
    client_secret_file: Option<String>,
    /// Where tokens are to be had.
    #[schemars(extend("x-required" = true))]
    token_url: String,
    /// What the token shall be good for.
    scopes: Vec<String>,
    /// Sent with the request for a token: `audience`, `resource`, ...
    endpoint_params: BTreeMap<String, Params>,
    /// How TLS is spoken to it.
    tls: TlsClientSettings,
    /// The longest that getting a token may take.
    timeout: Interval,
    /// A token is renewed so long before it expires, or in the middle of its life if that is later.
    expiry_buffer: Interval,
}

/// One value, or several.
struct Params(Vec<String>);

/// For how long a failure answers for those who waited for it.
const REMEMBERED: Duration = Duration::from_secs(1);

/// For how long it does while the old token is good: one export waits for the server, and the others go on.
const RESTED: Duration = Duration::from_secs(10);

/// A token that is rejected so soon after another says that tokens are not what is wrong.
const SOON: Duration = Duration::from_secs(60);

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            client_id: None,
            client_id_file: None,
            client_secret: None,
            client_secret_file: None,
            token_url: String::new(),
            scopes: Vec::new(),
            endpoint_params: BTreeMap::new(),
            tls: TlsClientSettings::default(),
            timeout: Interval::secs(5),
            expiry_buffer: Interval::secs(300),
        }
    }
}

impl watershed_stage::Settings for Settings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors: Vec<KeyError> =
            self.tls.check().into_iter().map(|error| error.under("tls")).collect();
        let mut either = |key: &str, what: &str, value: &Option<String>, file: &Option<String>| {
            let is_set = value.as_ref().is_some_and(|value| !value.is_empty());
            match (is_set, file) {
                (false, None) => {
                    let message = format!("no {what} provided in OAuth Client Credentials configuration");
                    errors.push(KeyError::new(key, message));
                }
                (true, Some(_)) => {
                    let message = format!("goes not with `{key}`: keep one of the two");
                    errors.push(KeyError::new(format!("{key}_file"), message));
                }
                _ => {}
            }
        };
        either("client_id", "ClientID", &self.client_id, &self.client_id_file);
        either("client_secret", "ClientSecret", &self.client_secret, &self.client_secret_file);
        if self.token_url.is_empty() {
            let message = "no TokenURL provided in OAuth Client Credentials configuration";
            errors.push(KeyError::new("token_url", message));
        } else if !self
            .token_url
            .parse::<http::Uri>()
            .is_ok_and(|url| url.scheme().is_some() && url.host().is_some())
        {
            errors.push(KeyError::new("token_url", "is not a URL: write it like \"https://host/path\""));
        }
        if self.timeout <= Interval::secs(0) {
            errors.push(KeyError::new("timeout", "must be positive: exports wait for it"));
        }
        for key in ["grant_type", "client_id", "client_secret", "scope"] {
            if self.endpoint_params.contains_key(key) {
                errors.push(KeyError::new(format!("endpoint_params.{key}"), "is sent by itself"));
            }
        }
        errors
    }
}

// === impl Params ===

// By hand: serde's `untagged` loses the key that an error belongs to.
impl<'de> Deserialize<'de> for Params {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Params;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, or a list of strings")
            }

            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Params, E> {
                Ok(Params(vec![value.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Params, A::Error> {
                let mut params = Vec::new();
                while let Some(value) = values.next_element()? {
                    params.push(value);
                }
                Ok(Params(params))
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

impl JsonSchema for Params {
    fn schema_name() -> Cow<'static, str> {
        "params".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "array"], "items": { "type": "string" } })
    }
}

// === impl OAuth2 ===

impl Extension for OAuth2 {
    type Settings = Settings;

    fn roles(_: &Settings) -> &'static [Role] {
        &[Role::ClientAuth]
    }

    fn build(settings: &Arc<Settings>, env: &Env) -> Result<Provided, Failure> {
        let this = Self::new(settings, endpoint::connect(settings, env)?)?;
        Ok(Provided { client_auth: Some(Arc::new(this)), ..Provided::default() })
    }
}

impl OAuth2 {
    fn new(settings: &Settings, endpoint: Box<dyn TokenEndpoint>) -> Result<Self, Failure> {
        let source = |key: &str, value: &Option<String>, file: &Option<String>| match file {
            Some(file) => Source::file(key, file, |text| Ok(text.trim().to_owned())),
            None => Ok(Source::fixed(value.clone().unwrap_or_default())),
        };
        let mut form = vec![("grant_type".to_owned(), "client_credentials".to_owned())];
        if !settings.scopes.is_empty() {
            form.push(("scope".to_owned(), settings.scopes.join(" ")));
        }
        for (key, values) in &settings.endpoint_params {
            form.extend(values.0.iter().map(|value| (key.clone(), value.clone())));
        }
        Ok(Self {
            endpoint,
            id: source("client_id_file", &settings.client_id, &settings.client_id_file)?,
            secret: source("client_secret_file", &settings.client_secret, &settings.client_secret_file)?,
            form,
            timeout: settings.timeout.0,
            expiry_buffer: settings.expiry_buffer.0,
            in_body: AtomicBool::new(false),
            state: Mutex::default(),
            flight: tokio::sync::Mutex::default(),
        })
    }

    async fn value(&self) -> Result<HeaderValue, AuthError> {
        if let Some(value) = self.known(Token::renew_at) {
            return Ok(value);
        }
        let old = self.known(Token::expires_at);
        let _flight = match (self.flight.try_lock(), old) {
            (Ok(flight), _) => flight,
            // Somebody gets a new one: until it is there, the old one will do.
            (Err(_), Some(old)) => return Ok(old),
            (Err(_), None) => self.flight.lock().await,
        };
        // Whoever was here before may have got one.
        if let Some(value) = self.known(Token::renew_at) {
            return Ok(value);
        }
        let rest = if self.known(Token::expires_at).is_some() { RESTED } else { REMEMBERED };
        let failed = self.state.lock().failed.clone();
        let got = match failed {
            Some((at, error)) if at.elapsed() < rest => Err(error),
            _ => self.get().await,
        };
        match got {
            Ok(token) => {
                let value = token.value.clone();
                let mut state = self.state.lock();
                (state.token, state.failed) = (Some(token), None);
                Ok(value)
            }
            // The old one is good for a while yet.
            Err(error) => self.known(Token::expires_at).ok_or(error),
        }
    }

    /// The token that is at hand, if that moment of its life has not come.
    fn known(&self, until: fn(&Token) -> Option<Instant>) -> Option<HeaderValue> {
        let state = self.state.lock();
        let token = state.token.as_ref()?;
        until(token).is_none_or(|at| Instant::now() < at).then(|| token.value.clone())
    }

    /// Asks for a token, in the way that worked last, and then in the other.
    async fn get(&self) -> Result<Token, AuthError> {
        let in_body = self.in_body.load(Ordering::Relaxed);
        let both = async {
            match self.ask(in_body).await {
                Err((true, error)) => match self.ask(!in_body).await {
                    Ok(token) => {
                        self.in_body.store(!in_body, Ordering::Relaxed);
                        Ok(token)
                    }
                    Err(_) => Err(error),
                },
                other => other.map_err(|(_, error)| error),
            }
        };
        let failed = |error: String| {
            let error = AuthError::Retryable(format!("no token from `token_url`: {error}"));
            self.state.lock().failed = Some((Instant::now(), error.clone()));
            error
        };
        // Until it is known better: whoever waits may give up before the server does.
        failed("no answer yet".to_owned());
        let late = || format!("no answer within {:?}", self.timeout);
        timeout(self.timeout, both).await.unwrap_or_else(|_| Err(late())).map_err(failed)
    }

    /// Asks once. An error says whether the server did not like how it was asked.
    async fn ask(&self, in_body: bool) -> Result<Token, (bool, String)> {
        let (id, secret) = (self.id.get(), self.secret.get());
        let mut form = Serializer::new(String::new());
        form.extend_pairs(&self.form);
        let mut authorization = None;
        if in_body {
            form.append_pair("client_id", &id).append_pair("client_secret", &secret);
        } else {
            // Encoded before they are encoded (RFC 6749, 2.3.1).
            let encode = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
            let both = STANDARD.encode(format!("{}:{}", encode(&id), encode(&secret)));
            authorization = secret_value(&format!("Basic {both}"));
        }
        let asked = Instant::now();
        let answer = self.endpoint.post(form.finish().into(), authorization).await;
        let (status, body) = answer.map_err(|error| (false, error))?;
        if status.is_success() {
            Token::read(&body, asked, self.expiry_buffer).map_err(|error| (false, error.to_owned()))
        } else {
            Err((status.is_client_error(), token::refusal(status, &body)))
        }
    }
}

impl ClientAuth for OAuth2 {
    fn headers<'a>(&'a self, _: &'a Origin) -> LocalBoxFuture<'a, Result<Headers, AuthError>> {
        async { Ok(vec![(AUTHORIZATION, self.value().await?)]) }.boxed_local()
    }

    fn rejected(&self, sent: &HeaderMap) -> bool {
        let mut state = self.state.lock();
        // What comes late, of an older token, says nothing of this one.
        if state.token.take_if(|token| sent.get(AUTHORIZATION) == Some(&token.value)).is_some() {
            let last = state.rejected.replace(Instant::now());
            state.hopeless = last.is_some_and(|last| last.elapsed() < SOON);
        }
        !state.hopeless
    }
}

#[cfg(test)]
mod tests;
