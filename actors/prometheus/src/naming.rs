//! Names and units of OpenTelemetry as those of Prometheus.
//!
//! Sources: opentelemetry-specification `specification/compatibility/prometheus_and_openmetrics.md`;
//! opentelemetry-collector-contrib `pkg/translator/prometheus/README.md`, whose results these are.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What becomes of names (`translation_strategy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub(crate) enum Strategy {
    /// What is no letter, digit or colon becomes `_`; unit and type are appended.
    #[default]
    UnderscoreEscapingWithSuffixes,
    /// What is no letter, digit or colon becomes `_`.
    UnderscoreEscapingWithoutSuffixes,
    /// Names stay as they are, but for unit and type, which are appended.
    #[serde(rename = "NoUTF8EscapingWithSuffixes")]
    NoUtf8EscapingWithSuffixes,
    /// Names stay as they are.
    NoTranslation,
}

/// How names are made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Naming {
    pub(crate) strategy: Strategy,
    /// Stands before every metric's name.
    pub(crate) namespace: String,
}

/// What a metric's name ends with beside its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// A counter's is `_total`.
    Total,
    /// A gauge's of unit `1` is `_ratio`.
    Ratio,
    /// Any other's is none.
    Plain,
}

/// Units by their codes in UCUM.
const UNITS: &[(&str, &str)] = &[
    ("d", "days"),
    ("h", "hours"),
    ("min", "minutes"),
    ("s", "seconds"),
    ("ms", "milliseconds"),
    ("us", "microseconds"),
    ("ns", "nanoseconds"),
    ("By", "bytes"),
    ("KiBy", "kibibytes"),
    ("MiBy", "mebibytes"),
    ("GiBy", "gibibytes"),
    ("TiBy", "tibibytes"),
    ("KBy", "kilobytes"),
    ("kBy", "kilobytes"),
    ("MBy", "megabytes"),
    ("GBy", "gigabytes"),
    ("TBy", "terabytes"),
    ("m", "meters"),
    ("V", "volts"),
    ("A", "amperes"),
    ("J", "joules"),
    ("W", "watts"),
    ("g", "grams"),
    ("Cel", "celsius"),
    ("Hz", "hertz"),
    ("1", ""),
    ("%", "percent"),
];

/// What something is counted by.
const PER: &[(&str, &str)] = &[
    ("s", "second"),
    ("m", "minute"),
    ("min", "minute"),
    ("h", "hour"),
    ("d", "day"),
    ("w", "week"),
    ("mo", "month"),
    ("y", "year"),
];

/// A unit in words: what is measured, and by what it is divided. Either may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unit {
    main: String,
    per: String,
}

// === impl Strategy ===

impl Strategy {
    fn escapes(self) -> bool {
        matches!(self, Self::UnderscoreEscapingWithSuffixes | Self::UnderscoreEscapingWithoutSuffixes)
    }

    pub(crate) fn suffixes(self) -> bool {
        matches!(self, Self::UnderscoreEscapingWithSuffixes | Self::NoUtf8EscapingWithSuffixes)
    }
}

// === impl Unit ===

impl Unit {
    /// Reads a unit in UCUM. Its `{annotations}` say nothing of what is measured.
    pub(crate) fn read(unit: &str) -> Self {
        let (main, per) = unit.split_once('/').unwrap_or((unit, ""));
        Self { main: words(main, UNITS), per: words(per, PER) }
    }

    /// The words as they stand in a name and behind `# UNIT`.
    pub(crate) fn text(&self) -> String {
        let Self { main, per } = self;
        match (main.is_empty(), per.is_empty()) {
            (_, true) => main.clone(),
            (true, false) => format!("per_{per}"),
            (false, false) => format!("{main}_per_{per}"),
        }
    }
}

fn words(unit: &str, table: &[(&str, &str)]) -> String {
    let mut plain = String::with_capacity(unit.len());
    let mut depth = 0_usize;
    for char in unit.chars() {
        match char {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            char if depth == 0 => plain.push(char),
            _ => {}
        }
    }
    let plain = plain.trim();
    let known = table.iter().find(|(code, _)| *code == plain).map_or(plain, |(_, words)| words);
    let mut out = String::with_capacity(known.len());
    push_joined(&mut out, known.split(|char: char| !char.is_ascii_alphanumeric()));
    out
}

/// Appends tokens with one `_` between each; empty ones are none.
fn push_joined<'t>(out: &mut String, tokens: impl Iterator<Item = &'t str>) {
    for token in tokens.filter(|token| !token.is_empty()) {
        if !out.is_empty() && !out.ends_with('_') {
            out.push('_');
        }
        out.push_str(token);
    }
}

fn tokens(name: &str) -> impl Iterator<Item = &str> + Clone {
    name.split(|char: char| !char.is_ascii_alphanumeric() && char != ':').filter(|token| !token.is_empty())
}

// === impl Naming ===

impl Naming {
    /// Puts a metric's name into `out`; empty where nothing is left of it.
    pub(crate) fn metric(&self, name: &str, unit: &Unit, ending: Ending, out: &mut String) {
        out.clear();
        if name.is_empty() {
            return;
        }
        match (self.strategy.escapes(), self.strategy.suffixes()) {
            (true, suffixes) => self.escaped(name, suffixes.then_some(unit), ending, out),
            (false, suffixes) => {
                if !self.namespace.is_empty() {
                    out.push_str(&self.namespace);
                    out.push('_');
                }
                out.push_str(name);
                if suffixes {
                    suffixed(unit, ending, out);
                }
            }
        }
    }

    fn escaped(&self, name: &str, unit: Option<&Unit>, ending: Ending, out: &mut String) {
        push_joined(out, tokens(&self.namespace));
        let before = out.len();
        let of_name = tokens(name);
        let Some(Unit { main, per }) = unit else {
            // Without suffixes edges and runs of `_` in a name are nobody's business: only foreign characters go.
            let kept = |char: char| char.is_ascii_alphanumeric() || char == ':' || char == '_';
            push_joined(out, name.split(|char| !kept(char)));
            return digit(out, before);
        };
        let last = match ending {
            Ending::Total => "total",
            Ending::Ratio => "ratio",
            Ending::Plain => "",
        };
        push_joined(out, of_name.clone().filter(|token| last.is_empty() || *token != last));
        let is_there = |word: &str| of_name.clone().any(|token| token == word);
        if !main.is_empty() && !is_there(main) {
            push_joined(out, std::iter::once(&**main));
        }
        if !per.is_empty() && !is_there(per) {
            push_joined(out, ["per", per].into_iter());
        }
        if out.len() == before && !of_name.clone().any(|token| token == last) {
            // Nothing but characters that may not stand there: what is left names nothing.
            out.clear();
            return;
        }
        push_joined(out, std::iter::once(last));
        digit(out, before);
    }

    /// Appends a label's name.
    pub(crate) fn label(&self, key: &str, out: &mut String) {
        let start = out.len();
        if !self.strategy.escapes() {
            // What begins so is Prometheus' own.
            if key.starts_with("__") {
                out.push_str("key");
            }
            return out.push_str(key);
        }
        match key.bytes().next() {
            Some(first) if first.is_ascii_alphabetic() => {}
            Some(first) if first.is_ascii_digit() => out.push_str("key_"),
            _ => out.push_str("key"),
        }
        let mut run = false;
        for byte in key.bytes() {
            let plain = byte.is_ascii_alphanumeric();
            if plain {
                out.push(char::from(byte));
            } else if !run {
                out.push('_');
            }
            run = !plain;
        }
        if out.len() == start + "key".len() && key.is_empty() {
            out.push('_');
        }
    }
}

/// No name begins with a digit.
fn digit(out: &mut String, before: usize) {
    if before == 0 && out.starts_with(|first: char| first.is_ascii_digit()) {
        out.insert(0, '_');
    }
}

/// Takes suffixes off a name that has them, and puts them on in their order.
fn suffixed(unit: &Unit, ending: Ending, out: &mut String) {
    let last = match ending {
        Ending::Total => "total",
        Ending::Ratio => "ratio",
        Ending::Plain => "",
    };
    let Unit { main, per } = unit;
    let per = if per.is_empty() { String::new() } else { format!("per_{per}") };
    for word in [last, &per].into_iter().filter(|word| !word.is_empty()) {
        let rest = out.strip_suffix(word).and_then(|rest| {
            let mut rest = rest.chars();
            let delimiter = rest.next_back().filter(|last| !last.is_ascii_alphanumeric());
            delimiter.map(|_| rest.as_str().len())
        });
        if let Some(rest) = rest.filter(|rest| *rest > 0) {
            out.truncate(rest);
        }
    }
    let main = if out.ends_with(&**main) { "" } else { main };
    for word in [main, &per, last].into_iter().filter(|word| !word.is_empty()) {
        out.push('_');
        out.push_str(word);
    }
}

/// A name as one that a scraper without UTF-8 takes: what is foreign becomes `_` (`escaping=underscores`).
pub(crate) fn underscored(name: &str, colons: bool, out: &mut String) {
    if name.starts_with(|first: char| first.is_ascii_digit()) {
        out.push('_');
    }
    out.extend(name.chars().map(|char| match char {
        ':' if colons => ':',
        char if char.is_ascii_alphanumeric() => char,
        _ => '_',
    }));
}

/// Whether a name needs no quotes.
pub(crate) fn is_plain(name: &str, colons: bool) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || (colons && byte == b':');
    name.bytes().all(good) && !name.starts_with(|first: char| first.is_ascii_digit()) && !name.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(strategy: Strategy, namespace: &str, name: &str, unit: &str, ending: Ending) -> String {
        let mut out = String::new();
        Naming { strategy, namespace: namespace.into() }.metric(name, &Unit::read(unit), ending, &mut out);
        out
    }

    #[test]
    fn names_have_their_unit_and_type_once() {
        use Ending::{Plain, Ratio, Total};
        for (given, unit, ending, expected) in [
            ("system.cpu.time", "s", Total, "system_cpu_time_seconds_total"),
            ("http.server.request.duration", "ms", Plain, "http_server_request_duration_milliseconds"),
            ("system.memory.usage", "By", Plain, "system_memory_usage_bytes"),
            ("system_memory_usage_bytes", "By", Plain, "system_memory_usage_bytes"),
            ("system.network.io", "By/s", Plain, "system_network_io_bytes_per_second"),
            ("speed", "m/s", Plain, "speed_meters_per_second"),
            ("speed_per_second", "m/s", Plain, "speed_per_second_meters"),
            ("requests_total", "{request}", Total, "requests_total"),
            ("total.requests", "", Total, "requests_total"),
            ("requests", "1", Total, "requests_total"),
            ("cpu.utilization", "1", Ratio, "cpu_utilization_ratio"),
            ("cpu.utilization.ratio", "1", Ratio, "cpu_utilization_ratio"),
            ("cpu.utilization", "%", Plain, "cpu_utilization_percent"),
            ("a..b__c", "", Plain, "a_b_c"),
            ("_edges_", "", Plain, "edges"),
            ("2xx.requests", "", Total, "_2xx_requests_total"),
            ("temperature", "Cel", Plain, "temperature_celsius"),
            ("size", "KiBy", Plain, "size_kibibytes"),
            ("queue", "{messages}/s", Plain, "queue_per_second"),
            ("odd", "foo/bar", Plain, "odd_foo_per_bar"),
            ("odd", "By{page}", Plain, "odd_bytes"),
            ("rule:sum", "", Plain, "rule:sum"),
            ("total", "", Total, "total"),
            ("größe", "", Plain, "gr_e"),
            ("量", "", Plain, ""),
            ("", "s", Total, ""),
        ] {
            let made = name(Strategy::UnderscoreEscapingWithSuffixes, "", given, unit, ending);
            assert_eq!(made, expected, "{given} {unit}");
        }
        let made = name(Strategy::UnderscoreEscapingWithSuffixes, "my-app", "2.x", "s", Plain);
        assert_eq!(made, "my_app_2_x_seconds");
    }

    #[test]
    fn each_strategy_does_what_it_is_called() {
        use Ending::{Ratio, Total};
        let all = [
            Strategy::UnderscoreEscapingWithSuffixes,
            Strategy::UnderscoreEscapingWithoutSuffixes,
            Strategy::NoUtf8EscapingWithSuffixes,
            Strategy::NoTranslation,
        ];
        let of = |given, unit, ending| all.map(|strategy| name(strategy, "", given, unit, ending));
        assert_eq!(
            of("http.requests", "By", Total),
            ["http_requests_bytes_total", "http_requests", "http.requests_bytes_total", "http.requests"]
        );
        assert_eq!(of("größe.total", "", Total), ["gr_e_total", "gr_e_total", "größe_total", "größe.total"]);
        assert_eq!(of("use", "1", Ratio), ["use_ratio", "use", "use_ratio", "use"]);
        assert_eq!(name(Strategy::NoTranslation, "ns", "a.b", "s", Total), "ns_a.b");
        let made = name(Strategy::NoUtf8EscapingWithSuffixes, "", "io.bytes", "By/s", Total);
        assert_eq!(made, "io.bytes_per_second_total");
    }

    #[test]
    fn labels_are_names_that_prometheus_has_not_reserved() {
        let of = |strategy, key| {
            let mut out = String::new();
            Naming { strategy, namespace: String::new() }.label(key, &mut out);
            out
        };
        for (key, expected) in [
            ("http.method", "http_method"),
            ("a__b", "a_b"),
            ("a:b", "a_b"),
            ("1st", "key_1st"),
            ("_hidden", "key_hidden"),
            ("__name__", "key_name_"),
            ("größe", "gr_e"),
            ("量", "key_"),
            ("", "key_"),
            ("Host", "Host"),
        ] {
            assert_eq!(of(Strategy::UnderscoreEscapingWithSuffixes, key), expected, "{key:?}");
        }
        assert_eq!(of(Strategy::NoTranslation, "http.method"), "http.method");
        assert_eq!(of(Strategy::NoTranslation, "__name__"), "key__name__");
    }

    #[test]
    fn units_in_words() {
        for (unit, expected) in
            [("By/s", "bytes_per_second"), ("1", ""), ("{x}", ""), ("/s", "per_second"), ("s", "seconds")]
        {
            assert_eq!(Unit::read(unit).text(), expected);
        }
    }
}
