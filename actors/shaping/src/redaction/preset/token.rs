//! Credentials: those of a known shape, those that are called one, and those in URLs.

use std::ops::Range;
use std::sync::LazyLock;

use regex::{Captures, Match, Regex};

use super::{Mark, Sense, Traits, Word, literal, starts};

macro_rules! regex {
    ($($part:literal),+ $(,)?) => { LazyLock::new(|| literal(concat!($($part),+))) };
}

/// Credentials that are told by their shape.
static SHAPED: LazyLock<Regex> = regex!(
    // JSON web tokens, signed (3 parts) and encrypted (5)
    r"eyJ[A-Za-z0-9_\-]{5,}(?:\.[A-Za-z0-9_\-]*){2,4}",
    // AWS
    r"|(?:AKIA|ASIA|AROA|AIDA|AGPA|ANPA|ANVA|ABIA|ACCA)[A-Z0-9]{16}",
    // GitHub, GitLab, npm
    r"|gh[pousr]_[A-Za-z0-9]{20,255}|github_pat_[A-Za-z0-9_]{22,255}|glpat-[A-Za-z0-9_\-]{20,}|npm_[A-Za-z0-9]{36}",
    // Slack
    r"|xox[abeoprs]-[A-Za-z0-9\-]{10,}|xapp-[0-9]-[A-Za-z0-9\-]{10,}|hooks\.slack\.com/services/[A-Za-z0-9/]{20,}",
    // Stripe, Google, SendGrid
    r"|[rs]k_(?:live|test)_[A-Za-z0-9]{10,}|AIza[A-Za-z0-9_\-]{35}|ya29\.[A-Za-z0-9_\-]{20,}",
    r"|SG\.[A-Za-z0-9_\-]{16,}\.[A-Za-z0-9_\-]{16,}",
    // Private keys in PEM, also cut off and with escaped line ends
    r"|(?s:-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----.*?",
    r"(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\z))",
);

/// `sk-` and more is the end of many a word.
static SK: LazyLock<Regex> = regex!(r"sk-[A-Za-z0-9_\-]{20,}");

static BEARER: LazyLock<Regex> =
    regex!(r"(?i)bearer[\s+]{1,3}([a-z0-9._~+/\-]{8,}=*)|basic[\s+]{1,3}([a-z0-9+/_\-]{6,}={0,2})");

/// Credentials that are called one. The name, the operator, and the value: quoted, or bare.
static CALLED: LazyLock<Regex> = regex!(
    r"(?i)(?:(passw(?:or)?d|passwort|passphrase|passcode|pwd)",
    r"|authorization|token|secret|api[_\-]?key|access[_\-]?key(?:[_\-]?id)?|(?:secret|private|auth)[_\-]?key",
    r"|credentials?|jsessionid|phpsessid|sessionid|x-amz-signature|x-goog-signature|[?&]sig(?:nature)?)",
    r#"["']?\s{0,3}(=>|[:=])\s{0,3}"#,
    r#"(?:"((?:[^"\\]|\\.)*)|'([^']*)"#,
    r#"|((?:(?:bearer|basic|token|digest|apikey)[\s+]{1,3})?[^\s"'&;,<>()\[\]{}|\\]+))"#,
);

/// `https://user:password@host`, `https://token@host`, `user:password@tcp(host)`.
static USERINFO: LazyLock<Regex> = regex!(
    r#"://([^\s/?#"'<>:@]*:[^\s/?#"'<>]*)@|://([^\s/?#"'<>:@]{16,})@"#,
    r#"|[A-Za-z0-9_.\-]+:([^\s/:@"']+)@(?:tcp|unix)\("#,
);

pub(super) fn find(text: &str, traits: &Traits, sense: Sense, hit: &mut impl FnMut(Range<usize>)) {
    if sense == Sense::Credential && !is_placeholder(text) {
        return hit(0..text.len());
    }
    if traits.says(Word::Credential) && (traits.has(Mark::Equals) || traits.has(Mark::Colon)) {
        CALLED.captures_iter(text).filter_map(|found| called(&found)).for_each(|found| hit(found.range()));
    }
    if traits.has(Mark::At) && traits.has(Mark::Colon) {
        let infos = USERINFO.captures_iter(text).filter_map(|found| group(&found, 1));
        infos.for_each(|found| hit(found.range()));
    }
    if traits.says(Word::Scheme) {
        BEARER.captures_iter(text).filter_map(|found| bearer(&found)).for_each(|found| hit(found.range()));
    }
    if traits.says(Word::Shape) {
        SHAPED.find_iter(text).for_each(|found| hit(found.range()));
        let keys = SK.find_iter(text).filter(|found| {
            starts(text.as_bytes(), found.start()) && found.as_str().bytes().any(|byte| byte.is_ascii_digit())
        });
        keys.for_each(|found| hit(found.range()));
    }
}

/// The first group at or after `from` that matched.
fn group<'t>(found: &Captures<'t>, from: usize) -> Option<Match<'t>> {
    found.iter().skip(from).flatten().next()
}

fn called<'t>(found: &Captures<'t>) -> Option<Match<'t>> {
    let value = group(found, 3)?;
    let is_password = found.get(1).is_some();
    let is_bare = found.get(5).is_some();
    // `invalid token: expected a comma` is a sentence, `token: a8f5f167` is not.
    let is_said = is_bare && !is_password && found.get(2).is_some_and(|operator| operator.as_str() == ":");
    let is_word = || value.as_str().bytes().all(|byte| byte.is_ascii_lowercase());
    let is_none = is_placeholder(value.as_str()) || is_said && is_word();
    (!is_none).then_some(value)
}

fn bearer<'t>(found: &Captures<'t>) -> Option<Match<'t>> {
    let is_coded = |found: &Match<'_>| {
        found.len() >= 20 || found.as_str().bytes().any(|byte| !byte.is_ascii_alphabetic())
    };
    match (found.get(1), found.get(2)) {
        (Some(bearer), _) => Some(bearer).filter(is_coded),
        (_, Some(basic)) => Some(basic).filter(|basic| is_user_and_password(basic.as_str())),
        _ => None,
    }
}

/// Whether base64 holds a colon, as `user:password` does: what else follows the word "basic" does not.
fn is_user_and_password(base64: &str) -> bool {
    let sextet = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    };
    let (mut bits, mut count) = (0u32, 0);
    base64.bytes().map_while(sextet).any(|sextet| {
        bits = bits << 6 | u32::from(sextet);
        count += 6;
        if count < 8 {
            return false;
        }
        count -= 8;
        (bits >> count) as u8 == b':'
    })
}

/// What stands where a credential would, and is none.
fn is_placeholder(text: &str) -> bool {
    let text = text.trim();
    let is_filler = text.bytes().all(|byte| matches!(byte, b'*' | b'.' | b'-' | b'x' | b'X' | b'$'));
    const WORDS: [&str; 8] = ["null", "nil", "none", "true", "false", "undefined", "[redacted]", "redacted"];
    is_filler || text.starts_with("${") || WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::super::Preset;
    use super::super::tests::found;

    #[test]
    fn credentials_are_found_and_what_is_around_them_stays() {
        for (text, credential) in [
            ("Authorization: Bearer abc.def-123456", "abc.def-123456"),
            ("Basic YWxpY2U6c2VjcmV0", "YWxpY2U6c2VjcmV0"),
            ("id AKIAIOSFODNN7EXAMPLE.", "AKIAIOSFODNN7EXAMPLE"),
            ("?api_key=s3cr3t&x=1", "s3cr3t"),
            (r#"{"password":"hunter2","a":1}"#, "hunter2"),
            (r#"{\"password\":\"hunter2\"}"#, "hunter2"),
            ("password: hunter2, user: bob", "hunter2"),
            ("dbPassword='a b c'", "a b c"),
            ("postgres://app:p%40ss@db:5432/x", "app:p%40ss"),
            ("app:pw@tcp(db:3306)/x", "pw"),
            ("redis://:pw@cache", ":pw"),
            ("https://0123456789abcdef0123@git.example/x", "0123456789abcdef0123"),
            ("token%3Dabc123", "abc123"),
        ] {
            let found = found(Preset::Token, text);
            assert!(found.iter().any(|found| found.ends_with(credential)), "{text}: {found:?}");
        }
    }

    #[test]
    fn talk_about_credentials_is_none() {
        for text in [
            "bearer authentication failed",
            "basic authentication",
            "unexpected token: comma",
            "password=null",
            "password=****",
            "input_tokens=512",
            "risk-assessment-with-a-long-name",
            "ssh://git@github.com/a/b",
            "token=${TOKEN}",
            "a secret place",
        ] {
            assert!(found(Preset::Token, text).is_empty(), "{text}: {:?}", found(Preset::Token, text));
        }
    }
}
