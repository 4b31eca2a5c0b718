//! How a job or a discovery gets at its servers, under Prometheus' keys.

use std::path::PathBuf;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::HeaderValue;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use watershed_net::{ClientTls, ClientTlsOptions, HttpClient, HttpClientOptions, Pem, Proxy, TlsVersion};
use watershed_stage::{Env, Failure, KeyError};

use crate::scrape::error::{Failed, Reason};

/// How servers are got at.
#[derive(Clone, Copy)]
pub(crate) struct Access<'s> {
    pub(crate) basic_auth: Option<&'s BasicAuthSettings>,
    pub(crate) authorization: Option<&'s AuthorizationSettings>,
    pub(crate) tls_config: &'s ScrapeTlsSettings,
    pub(crate) proxy_url: Option<&'s str>,
}

/// `basic_auth`.
#[derive(Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct BasicAuthSettings {
    /// The user.
    pub(crate) username: String,
    /// A file that holds it, read at each request.
    pub(crate) username_file: Option<PathBuf>,
    /// The password.
    pub(crate) password: Option<String>,
    /// A file that holds it, read at each request.
    pub(crate) password_file: Option<PathBuf>,
}

/// `authorization`.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AuthorizationSettings {
    /// What comes before the credentials.
    pub(crate) r#type: String,
    /// The credentials.
    pub(crate) credentials: Option<String>,
    /// A file that holds them, read at each request.
    pub(crate) credentials_file: Option<PathBuf>,
}

/// `tls_config`. Certificates and keys come as a file or as the text itself.
#[derive(Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ScrapeTlsSettings {
    /// The authorities that may have signed the server's certificate, as PEM; the system's unless told.
    pub(crate) ca: Option<String>,
    /// A file that holds them.
    pub(crate) ca_file: Option<PathBuf>,
    /// The certificate to show, as PEM.
    pub(crate) cert: Option<String>,
    /// A file that holds it.
    pub(crate) cert_file: Option<PathBuf>,
    /// Its private key, as PEM.
    pub(crate) key: Option<String>,
    /// A file that holds it.
    pub(crate) key_file: Option<PathBuf>,
    /// The name that the server's certificate has to be for, if it is not the address's.
    pub(crate) server_name: Option<String>,
    /// Believe any certificate: whoever is between the two ends can read and change everything.
    pub(crate) insecure_skip_verify: bool,
    /// The oldest version spoken.
    pub(crate) min_version: Version,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
pub(crate) enum Version {
    /// 1.2.
    #[default]
    #[serde(rename = "TLS12")]
    V1_2,
    /// 1.3.
    #[serde(rename = "TLS13")]
    V1_3,
}

// === impl Access ===

impl Access<'_> {
    pub(crate) fn check(&self) -> Vec<KeyError> {
        let mut errors = Vec::new();
        let mut twice = |table: &str, one: &str, other: &str, both: bool| {
            if both {
                let message = format!("`{table}{one}` says it already: keep one of the two");
                errors.push(KeyError::new(format!("{table}{other}"), message));
            }
        };
        twice("", "basic_auth", "authorization", self.basic_auth.is_some() && self.authorization.is_some());
        if let Some(basic) = self.basic_auth {
            let (user, password) = (!basic.username.is_empty(), basic.password.is_some());
            twice("basic_auth.", "username", "username_file", user && basic.username_file.is_some());
            twice("basic_auth.", "password", "password_file", password && basic.password_file.is_some());
        }
        if let Some(auth) = self.authorization {
            let both = auth.credentials.is_some() && auth.credentials_file.is_some();
            twice("authorization.", "credentials", "credentials_file", both);
            if auth.r#type.eq_ignore_ascii_case("basic") {
                errors.push(KeyError::new("authorization.type", "of user and password is `basic_auth`"));
            }
        }
        let tls = self.tls_config;
        let mut twice = |name: &str, text: &Option<String>, file: &Option<PathBuf>| {
            if text.is_some() && file.is_some() {
                let message = format!("`{name}` says it already: keep one of the two");
                errors.push(KeyError::new(format!("tls_config.{name}_file"), message));
            }
            text.is_some() || file.is_some()
        };
        twice("ca", &tls.ca, &tls.ca_file);
        let (cert, key) = (twice("cert", &tls.cert, &tls.cert_file), twice("key", &tls.key, &tls.key_file));
        if cert != key {
            let message = "a certificate and its private key come together";
            errors.push(KeyError::new("tls_config", message));
        }
        if let Err(error) = self.proxy() {
            errors.push(KeyError::new("proxy_url", error.to_string()));
        }
        errors
    }

    fn proxy(&self) -> Result<Option<Proxy>, watershed_net::EndpointError> {
        self.proxy_url.filter(|url| !url.is_empty()).map(Proxy::new).transpose()
    }

    /// A client for one lane. Reads certificates.
    pub(crate) fn open(&self, env: &Env) -> Result<HttpClient, Failure> {
        let tls = self.tls_config;
        let pem = |text: &Option<String>, file: &Option<PathBuf>| {
            file.clone().map(Pem::File).or_else(|| text.clone().map(Pem::Text))
        };
        let options = ClientTlsOptions {
            ca: pem(&tls.ca, &tls.ca_file),
            cert: pem(&tls.cert, &tls.cert_file),
            key: pem(&tls.key, &tls.key_file),
            insecure_skip_verify: tls.insecure_skip_verify,
            server_name_override: tls.server_name.clone(),
            min_version: match tls.min_version {
                Version::V1_2 => TlsVersion::V1_2,
                Version::V1_3 => TlsVersion::V1_3,
            },
            ..ClientTlsOptions::default()
        };
        // What is trusted by default is read when it is needed.
        let is_default = options.ca.is_none()
            && options.cert.is_none()
            && !options.insecure_skip_verify
            && options.server_name_override.is_none()
            && matches!(tls.min_version, Version::V1_2);
        let tls = (!is_default).then(|| ClientTls::new(&options)).transpose();
        let client = HttpClient::new(HttpClientOptions {
            tls: tls.map_err(|error| Failure::new(format!("tls_config.{error}")))?,
            proxy: self.proxy().map_err(|error| Failure::from_error(&error))?,
            max_idle_conns_per_host: 4,
            // Longer than the time between two scrapes, mostly.
            idle_conn_timeout: std::time::Duration::from_secs(300),
            budget: Some(env.budget.clone()),
            ..HttpClientOptions::default()
        });
        client.map_err(|error| Failure::from_error(&error))
    }

    /// The header that lets a request in. Files are read each time: tokens rotate.
    pub(crate) fn header(&self) -> Result<Option<HeaderValue>, Failed> {
        let text = if let Some(basic) = self.basic_auth {
            let user = secret(Some(&basic.username), basic.username_file.as_ref())?;
            let password = secret(basic.password.as_ref(), basic.password_file.as_ref())?;
            format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
        } else if let Some(auth) = self.authorization {
            let credentials = secret(auth.credentials.as_ref(), auth.credentials_file.as_ref())?;
            format!("{} {credentials}", auth.r#type)
        } else {
            return Ok(None);
        };
        let mut header = HeaderValue::from_str(&text)
            .map_err(|_| Failed::new(Reason::Credentials, "the credentials do not fit into a header"))?;
        header.set_sensitive(true);
        Ok(Some(header))
    }
}

impl Default for AuthorizationSettings {
    fn default() -> Self {
        Self { r#type: "Bearer".to_owned(), credentials: None, credentials_file: None }
    }
}

fn secret(text: Option<&String>, file: Option<&PathBuf>) -> Result<String, Failed> {
    let Some(file) = file else { return Ok(text.cloned().unwrap_or_default()) };
    let text = std::fs::read_to_string(file).map_err(|error| {
        Failed::new(Reason::Credentials, format!("cannot read {}: {error}", file.display()))
    })?;
    Ok(text.trim().to_owned())
}
