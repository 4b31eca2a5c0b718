//! `basicauth`: user names and passwords (RFC 7617).

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use futures_util::future::{FutureExt as _, LocalBoxFuture};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use schemars::JsonSchema;
use serde::Deserialize;
use watershed_stage::{
    AuthError, ClientAuth, Env, Extension, Failure, Headers, Identity, KeyError, Origin, Provided, Role,
    ServerAuth, Unauthenticated,
};

use crate::credentials::{credentials, not_now, secret_value, wrong};
use crate::file::Source;
use crate::htpasswd::Users;

/// Knows users, to let them in, or one, to get in as.
pub(crate) struct Basic;

/// Settings of `basicauth`, under otelcol's keys. They hold passwords: never printed.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// The users that receivers let in. It or `client_auth` is required.
    htpasswd: Option<Htpasswd>,
    /// The user that exporters get in as.
    client_auth: Option<Client>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Htpasswd {
    /// A file of users, as `htpasswd -B` writes it, read again when it changes.
    file: Option<String>,
    /// Users in the same notation. Where one is in the file as well, this is what counts.
    inline: String,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Client {
    /// The name. It or `username_file` is required.
    username: Option<String>,
    /// The password.
    password: Option<String>,
    /// A file that holds the name, read again when it changes.
    username_file: Option<String>,
    /// A file that holds the password, read again when it changes.
    password_file: Option<String>,
}

struct Server {
    users: Source<Users>,
    challenge: HeaderValue,
}

struct Sender {
    username: Source<String>,
    password: Source<String>,
}

/// Padding is left out by some senders, and says nothing.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

// === impl Settings ===

impl watershed_stage::Settings for Settings {
    fn check(&self) -> Vec<KeyError> {
        match (&self.htpasswd, &self.client_auth) {
            (None, None) => {
                vec![KeyError::new("", "no credential source provided: set `htpasswd` or `client_auth`")]
            }
            (Some(_), Some(_)) => {
                let message =
                    "only one of `htpasswd` and `client_auth` can be specified: make two extensions";
                vec![KeyError::new("client_auth", message)]
            }
            (Some(htpasswd), None) => under("htpasswd", htpasswd.check()),
            (None, Some(client)) => under("client_auth", client.check()),
        }
    }
}

fn under(key: &str, errors: Vec<KeyError>) -> Vec<KeyError> {
    errors.into_iter().map(|error| error.under(key)).collect()
}

impl Htpasswd {
    fn check(&self) -> Vec<KeyError> {
        match (&self.file, &*self.inline) {
            (None, "") => vec![KeyError::new("", "no credential source provided: set `file` or `inline`")],
            (_, "") => Vec::new(),
            (_, inline) => Users::parse(inline)
                .err()
                .map(|problem| KeyError::new("inline", problem))
                .into_iter()
                .collect(),
        }
    }
}

impl Client {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = Vec::new();
        let pairs = [
            ("username", &self.username, "username_file", &self.username_file),
            ("password", &self.password, "password_file", &self.password_file),
        ];
        for (key, value, file_key, file) in pairs {
            match (value, file) {
                (None, None) => errors.push(KeyError::new(key, format!("set `{key}` or `{file_key}`"))),
                (Some(_), Some(_)) => errors
                    .push(KeyError::new(file_key, format!("goes not with `{key}`: keep one of the two"))),
                _ => {}
            }
        }
        if let Some(Err(problem)) = self.username.as_deref().map(username) {
            errors.push(KeyError::new("username", problem));
        }
        errors
    }
}

/// The name on the first line of a text. It ends at the first colon on the wire, so it can not have one.
fn username(text: &str) -> Result<String, String> {
    let name = text.trim();
    if name.contains(':') { Err("a user name can not have a colon".into()) } else { Ok(name.to_owned()) }
}

/// A source of what stands in the settings, or in a file.
fn source(
    key: &str,
    value: Option<&str>,
    file: Option<&str>,
    parse: fn(&str) -> Result<String, String>,
) -> Result<Source<String>, Failure> {
    match file {
        Some(file) => Source::file(key, file, parse),
        None => Ok(Source::fixed(value.unwrap_or_default().to_owned())),
    }
}

// === impl Basic ===

impl Extension for Basic {
    type Settings = Settings;

    fn roles(settings: &Settings) -> &'static [Role] {
        if settings.htpasswd.is_some() { &[Role::ServerAuth] } else { &[Role::ClientAuth] }
    }

    fn build(settings: &Arc<Settings>, _: &Env) -> Result<Provided, Failure> {
        let mut provided = Provided::default();
        if let Some(htpasswd) = &settings.htpasswd {
            provided.server_auth = Some(Arc::new(Server::new(htpasswd)?));
        }
        if let Some(client) = &settings.client_auth {
            provided.client_auth = Some(Arc::new(Sender::new(client)?));
        }
        Ok(provided)
    }
}

// === impl Server ===

impl Server {
    fn new(settings: &Htpasswd) -> Result<Self, Failure> {
        let inline = settings.inline.clone();
        let users = match &settings.file {
            Some(file) => {
                Source::file("htpasswd.file", file, move |text| Users::parse(&format!("{text}\n{inline}")))?
            }
            None => Source::fixed(Users::parse(&inline).map_err(Failure::new)?),
        };
        let challenge = HeaderValue::from_static("Basic realm=\"watershed\", charset=\"UTF-8\"");
        Ok(Self { users, challenge })
    }
}

impl ServerAuth for Server {
    fn authenticate(&self, headers: &HeaderMap) -> Result<Identity, Unauthenticated> {
        let encoded = credentials(headers, &AUTHORIZATION, "Basic", &self.challenge)?;
        let decoded = BASE64.decode(encoded).map_err(|_| wrong(&self.challenge))?;
        let colon = decoded.iter().position(|byte| *byte == b':').ok_or_else(|| wrong(&self.challenge))?;
        let name = std::str::from_utf8(&decoded[..colon]).map_err(|_| wrong(&self.challenge))?;
        if !self.users.get().is_right(name, &decoded[colon + 1..]).map_err(not_now)? {
            return Err(wrong(&self.challenge));
        }
        Ok(Identity(BTreeMap::from([("username".to_owned(), name.to_owned())])))
    }
}

// === impl Sender ===

impl Sender {
    fn new(settings: &Client) -> Result<Self, Failure> {
        let Client { username: name, password, username_file, password_file } = settings;
        // As otelcol does: a password may end in anything but the line that holds it.
        let line = |text: &str| Ok(text.trim_end_matches(['\r', '\n']).to_owned());
        Ok(Self {
            username: source(
                "client_auth.username_file",
                name.as_deref(),
                username_file.as_deref(),
                username,
            )?,
            password: source(
                "client_auth.password_file",
                password.as_deref(),
                password_file.as_deref(),
                line,
            )?,
        })
    }
}

impl ClientAuth for Sender {
    fn headers<'a>(&'a self, _: &'a Origin) -> LocalBoxFuture<'a, Result<Headers, AuthError>> {
        let both = format!("{}:{}", self.username.get(), self.password.get());
        let value = secret_value(&format!("Basic {}", STANDARD.encode(both)));
        // Base64 fits into any header.
        let headers = value.map(|value| (AUTHORIZATION, value)).into_iter().collect();
        std::future::ready(Ok(headers)).boxed_local()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use watershed_stage::Settings as _;

    use super::*;

    fn settings(text: &str) -> Settings {
        toml::from_str(text).unwrap()
    }

    fn server(text: &str) -> Server {
        Server::new(settings(text).htpasswd.as_ref().unwrap()).unwrap()
    }

    fn sender(text: &str) -> Sender {
        Sender::new(settings(text).client_auth.as_ref().unwrap()).unwrap()
    }

    fn ask(server: &Server, value: &str) -> Result<Identity, Unauthenticated> {
        server.authenticate(&HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())]))
    }

    // Time stands still, so that nobody has to rest after a wrong password.
    #[tokio::test(start_paused = true)]
    async fn a_user_with_the_right_password_may_come_in_and_is_known_by_name() {
        let hash = bcrypt::hash("s:cret", 4).unwrap();
        let server = server(&format!("htpasswd.inline = '''\nann:{hash}\nbob:b\n'''"));
        let encoded = |text: &[u8]| format!("Basic {}", STANDARD.encode(text));
        let ann = encoded(b"ann:s:cret");
        for good in [ann.clone(), ann.replace("Basic", "basic"), ann.trim_end_matches('=').to_owned()] {
            assert_eq!(ask(&server, &good).unwrap().0["username"], "ann", "{good}");
        }
        assert_eq!(ask(&server, &encoded(b"bob:b")).unwrap().0["username"], "bob");
        for bad in [
            "",
            "Basic",
            "Basic ",
            "Basic !",
            "Bearer YW5uOnM6Y3JldA",
            "ann:s:cret",
            "Basic ann:s:cret",
            &encoded(b"ann"),
            &encoded(b"ann:"),
            &encoded(b"ann:s"),
            &encoded(b"ANN:s:cret"),
            &encoded(b":s:cret"),
            &encoded(b"eve:s:cret"),
            &encoded(b"\xff:s:cret"),
            &encoded(b"bob:s:cret"),
        ] {
            let error = ask(&server, bad).unwrap_err();
            assert_eq!(error.reason, "authentication didn't succeed", "{bad}");
            assert_eq!(error.challenge.unwrap(), "Basic realm=\"watershed\", charset=\"UTF-8\"");
        }
        let error = server.authenticate(&HeaderMap::new()).unwrap_err();
        assert_eq!(error.reason, "no credentials were sent");
    }

    #[tokio::test(start_paused = true)]
    async fn users_of_a_file_change_with_it_and_inline_ones_win() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("htpasswd");
        let hash = bcrypt::hash("old", 4).unwrap();
        fs::write(&path, format!("ann:{hash}\nbob:file\n")).unwrap();
        let server = server(&format!("htpasswd = {{ file = {path:?}, inline = 'bob:inline' }}"));
        let good = |both: &str| ask(&server, &format!("Basic {}", STANDARD.encode(both))).is_ok();
        assert!(good("ann:old") && good("bob:inline") && !good("bob:file"));
        fs::write(&path, "ann:newer\n").unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!good("ann:old"), "what was once right is not remembered beyond the file");
        assert!(good("ann:newer") && good("bob:inline"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_exporter_sends_its_user() {
        let fixed = sender("client_auth = { username = 'ann', password = 's:cret' }");
        let sent = fixed.headers(&Origin::default()).await.unwrap();
        assert_eq!(
            sent,
            [(AUTHORIZATION, format!("Basic {}", STANDARD.encode("ann:s:cret")).parse().unwrap())]
        );
        assert!(sent[0].1.is_sensitive());

        let directory = tempfile::tempdir().unwrap();
        let (name, password) = (directory.path().join("name"), directory.path().join("password"));
        fs::write(&name, "ann\n").unwrap();
        fs::write(&password, "one \n").unwrap();
        let files =
            sender(&format!("client_auth = {{ username_file = {name:?}, password_file = {password:?} }}"));
        let expect = async |both: &str| {
            let sent = files.headers(&Origin::default()).await.unwrap();
            assert_eq!(sent[0].1, format!("Basic {}", STANDARD.encode(both)));
        };
        expect("ann:one ").await;
        fs::write(&password, "another\n").unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        expect("ann:another").await;
    }

    #[test]
    fn settings_say_which_role_it_has_and_are_checked_without_telling_a_secret() {
        let keys = |text: &str| settings(text).check().into_iter().map(|error| error.key).collect::<Vec<_>>();
        assert_eq!(keys(""), [""]);
        assert_eq!(keys("htpasswd = {}"), ["htpasswd"]);
        assert_eq!(keys("htpasswd.inline = 'a:b'\nclient_auth = {}"), ["client_auth"]);
        assert_eq!(keys("client_auth = {}"), ["client_auth.username", "client_auth.password"]);
        assert_eq!(
            keys("client_auth = { username = 'a:b', password = 'c', password_file = 'd' }"),
            ["client_auth.password_file", "client_auth.username"]
        );
        let error = &settings("htpasswd.inline = 'ann:$1$s3cret'").check()[0];
        assert!(error.key == "htpasswd.inline" && !error.message.contains("s3cret"), "{error}");
        assert_eq!(Basic::roles(&settings("htpasswd.inline = 'a:b'")), [Role::ServerAuth]);
        assert_eq!(
            Basic::roles(&settings("client_auth = { username = 'a', password = 'b' }")),
            [Role::ClientAuth]
        );
    }
}
