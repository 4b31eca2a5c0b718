//! Which formats are asked for, and which one has come.
//!
//! Source: prometheus/docs `content_negotiation.md`; an answer that does not say its format, or one that nobody knows,
//! is a failed scrape, as it is with Prometheus 3.

use http::{HeaderMap, HeaderValue};

use super::error::{Failed, Reason};
use super::parse::Format;
use super::settings::Protocol;

/// `Accept`: the formats, the best first, and as the last resort anything.
pub(crate) fn accept(protocols: &[Protocol]) -> HeaderValue {
    let mut text = String::new();
    let mut weight = (protocols.len() + 1).min(9);
    for protocol in protocols {
        text.push_str(match protocol {
            Protocol::PrometheusProto => {
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
            }
            Protocol::Text0 => "text/plain;version=0.0.4",
            Protocol::Text1 => "text/plain;version=1.0.0;escaping=allow-utf-8",
            Protocol::OpenMetrics0 => "application/openmetrics-text;version=0.0.1",
            Protocol::OpenMetrics1 => "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8",
        });
        text.push_str(&format!(";q=0.{weight},"));
        weight = (weight - 1).max(1);
    }
    text.push_str("*/*;q=0.1");
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("*/*"))
}

/// The format of an answer.
pub(crate) fn format(
    content_type: Option<&HeaderValue>,
    fallback: Option<Protocol>,
    native: bool,
) -> Result<Format, Failed> {
    let text = content_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut parts = text.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
    let parameter = |name: &str| {
        let parameters = text.split(';').skip(1).filter_map(|part| part.trim().split_once('='));
        let mut values = parameters.filter(|(key, _)| key.trim().eq_ignore_ascii_case(name));
        values.next().map(|(_, value)| value.trim().trim_matches('"'))
    };
    let protobuf = Format::Protobuf { native };
    match &*kind {
        "text/plain" => return Ok(Format::Text),
        "application/openmetrics-text" => return Ok(Format::OpenMetrics),
        "application/vnd.google.protobuf"
            if parameter("proto") == Some("io.prometheus.client.MetricFamily")
                && parameter("encoding").is_none_or(|encoding| encoding == "delimited") =>
        {
            return Ok(protobuf);
        }
        _ => {}
    }
    match fallback {
        Some(Protocol::PrometheusProto) => Ok(protobuf),
        Some(Protocol::Text0 | Protocol::Text1) => Ok(Format::Text),
        Some(Protocol::OpenMetrics0 | Protocol::OpenMetrics1) => Ok(Format::OpenMetrics),
        None => Err(Failed::new(
            Reason::ContentType,
            format!("it answers {text:?}, which is no format: see fallback_scrape_protocol"),
        )),
    }
}

/// Headers of every scrape.
pub(crate) fn headers(accept: &HeaderValue, timeout: std::time::Duration) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(http::header::ACCEPT, accept.clone());
    let seconds = HeaderValue::from_str(&timeout.as_secs_f64().to_string());
    if let Ok(seconds) = seconds {
        headers.insert("x-prometheus-scrape-timeout-seconds", seconds);
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_format_has_the_greatest_weight() {
        let text = accept(&[Protocol::OpenMetrics1, Protocol::Text0]);
        assert_eq!(
            text,
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
        );
    }

    #[test]
    fn the_format_is_what_the_answer_says() {
        let native = Format::Protobuf { native: true };
        for (text, fallback, expected) in [
            ("text/plain; version=0.0.4; charset=utf-8", None, Some(Format::Text)),
            ("TEXT/Plain", None, Some(Format::Text)),
            ("application/openmetrics-text; version=1.0.0", None, Some(Format::OpenMetrics)),
            (
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited",
                None,
                Some(native),
            ),
            ("application/vnd.google.protobuf; proto=other", None, None),
            ("text/html", None, None),
            ("", None, None),
            ("", Some(Protocol::Text0), Some(Format::Text)),
            ("text/html", Some(Protocol::PrometheusProto), Some(native)),
            ("application/json", Some(Protocol::OpenMetrics1), Some(Format::OpenMetrics)),
        ] {
            let value = HeaderValue::from_static(text);
            assert_eq!(format(Some(&value), fallback, true).ok(), expected, "{text}");
        }
        assert!(format(None, None, false).unwrap_err().message.contains("fallback_scrape_protocol"));
    }
}
