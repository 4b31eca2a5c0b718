//! The server that gives out tokens, over HTTP.

use bytes::Bytes;
use futures_util::future::{FutureExt as _, LocalBoxFuture};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use watershed_net::HttpClient;
use watershed_stage::{CompressionSetting, Env, Failure, HttpClientSettings};

use super::{Settings, TokenEndpoint};

/// What a form is (RFC 6749, 4.4.2).
const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");

struct Http {
    client: HttpClient,
    url: Uri,
}

/// The endpoint at `token_url`.
pub(crate) fn connect(settings: &Settings, env: &Env) -> Result<Box<dyn TokenEndpoint>, Failure> {
    let client = HttpClientSettings {
        tls: settings.tls.clone(),
        compression: CompressionSetting::None,
        // An extension is shared by all lanes, so no connection may outlive its request.
        disable_keep_alives: true,
        ..HttpClientSettings::default()
    };
    let url = settings.token_url.parse().map_err(|_| Failure::new("`token_url` is no URL"))?;
    let (client, _) = client.open(env)?;
    Ok(Box::new(Http { client, url }))
}

impl TokenEndpoint for Http {
    fn post(
        &self,
        form: Bytes,
        authorization: Option<HeaderValue>,
    ) -> LocalBoxFuture<'_, Result<(StatusCode, Bytes), String>> {
        async move {
            let headers: HeaderMap = authorization.into_iter().map(|value| (AUTHORIZATION, value)).collect();
            let answer = self.client.post(&self.url, FORM, &headers, &[form], None).await;
            answer.map(|answer| (answer.status, answer.body)).map_err(|error| error.to_string())
        }
        .boxed_local()
    }
}
