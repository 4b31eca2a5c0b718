//! Which format a scraper gets.
//!
//! Source: `prometheus/docs: docs/instrumenting/content_negotiation.md, escaping_schemes.md`; RFC 9110, 12.5.1.

use http::header::{ACCEPT, ACCEPT_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue};

/// How a scrape is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format {
    pub(super) syntax: Syntax,
    /// Whether names may hold any character.
    pub(super) utf8: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Syntax {
    /// Prometheus' own text.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// `io.prometheus.client.MetricFamily`, each behind its length.
    Protobuf,
}

impl Format {
    /// What `Accept` likes best of what there is; text where it likes nothing.
    pub(super) fn choose(headers: &HeaderMap, open_metrics: bool) -> Self {
        let mut best = (0, Self { syntax: Syntax::Text, utf8: false });
        for wish in list(headers, &ACCEPT) {
            let mut parts = wish.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let parameter = |key: &str| {
                let mut pairs = parts.clone().filter_map(|part| part.split_once('='));
                pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case(key)).map(|(_, value)| value.trim())
            };
            let version = parameter("version");
            let syntax = match media.to_ascii_lowercase().as_str() {
                "application/vnd.google.protobuf"
                    if parameter("proto") == Some("io.prometheus.client.MetricFamily")
                        && parameter("encoding") == Some("delimited") =>
                {
                    Syntax::Protobuf
                }
                "application/openmetrics-text"
                    if open_metrics && matches!(version, None | Some("1.0.0" | "0.0.1")) =>
                {
                    Syntax::OpenMetrics
                }
                "text/plain" if matches!(version, None | Some("0.0.4" | "1.0.0")) => Syntax::Text,
                "*/*" | "text/*" => Syntax::Text,
                _ => continue,
            };
            let weight = weight(parameter("q"));
            if weight > best.0 {
                best = (weight, Self { syntax, utf8: parameter("escaping") == Some("allow-utf-8") });
            }
        }
        best.1
    }

    pub(super) fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match (self.syntax, self.utf8) {
            (Syntax::Text, false) => "text/plain; version=0.0.4; charset=utf-8; escaping=underscores",
            (Syntax::Text, true) => "text/plain; version=1.0.0; charset=utf-8; escaping=allow-utf-8",
            (Syntax::OpenMetrics, false) => {
                "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"
            }
            (Syntax::OpenMetrics, true) => {
                "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=allow-utf-8"
            }
            (Syntax::Protobuf, false) => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited; \
                 escaping=underscores"
            }
            (Syntax::Protobuf, true) => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited; \
                 escaping=allow-utf-8"
            }
        })
    }
}

/// Whether the answer may be compressed by gzip.
pub(super) fn takes_gzip(headers: &HeaderMap) -> bool {
    list(headers, &ACCEPT_ENCODING).any(|wish| {
        let (coding, rest) = wish.split_once(';').unwrap_or((wish, ""));
        let q = rest.trim().strip_prefix("q=");
        coding.trim().eq_ignore_ascii_case("gzip") && weight(q) > 0
    })
}

fn list<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
}

/// A weight in thousandths.
fn weight(q: Option<&str>) -> u32 {
    let weight = q.map_or(1.0, |q| q.parse::<f64>().unwrap_or(0.0));
    (weight.clamp(0.0, 1.0) * 1000.0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(accept: &'static str, open_metrics: bool) -> Format {
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
        Format::choose(&headers, open_metrics)
    }

    #[test]
    fn a_scraper_gets_what_it_likes_best_of_what_there_is() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                          application/openmetrics-text;version=0.0.1;q=0.5,\
                          text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let native = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,\
                      text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, open_metrics, syntax, utf8) in [
            (prometheus, true, Syntax::OpenMetrics, true),
            (prometheus, false, Syntax::Text, true),
            (native, true, Syntax::Protobuf, false),
            ("text/plain;version=0.0.4", true, Syntax::Text, false),
            ("*/*", true, Syntax::Text, false),
            ("", true, Syntax::Text, false),
            ("application/json", true, Syntax::Text, false),
            ("application/openmetrics-text; version=2.0.0, text/plain;q=0.1", true, Syntax::Text, false),
            ("application/vnd.google.protobuf;proto=other;encoding=delimited", true, Syntax::Text, false),
            ("text/plain;q=nonsense, application/openmetrics-text;q=0.1", true, Syntax::OpenMetrics, false),
        ] {
            assert_eq!(chosen(accept, open_metrics), Format { syntax, utf8 }, "{accept}");
        }
    }

    #[test]
    fn gzip_is_for_those_who_ask_for_it() {
        for (accept, expected) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("gzip;q=0", false),
            ("identity", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(accept))]);
            assert_eq!(takes_gzip(&headers), expected, "{accept}");
        }
    }
}
