//! What a key says of its value.

/// What a key says of its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::redaction) enum Sense {
    /// Nothing.
    Unknown,
    /// It is a credential, whatever it looks like.
    Credential,
    /// It is a telephone number, if it can be one.
    Phone,
    /// It is a version, even if it looks like an address.
    Version,
}

/// Last words of keys, without what separates words.
const NAMES: [(&str, Sense); 29] = [
    ("password", Sense::Credential),
    ("passwd", Sense::Credential),
    ("passphrase", Sense::Credential),
    ("passcode", Sense::Credential),
    ("pwd", Sense::Credential),
    ("secret", Sense::Credential),
    ("token", Sense::Credential),
    ("apikey", Sense::Credential),
    ("accesskey", Sense::Credential),
    ("accesskeyid", Sense::Credential),
    ("secretkey", Sense::Credential),
    ("secretaccesskey", Sense::Credential),
    ("privatekey", Sense::Credential),
    ("authkey", Sense::Credential),
    ("authorization", Sense::Credential),
    ("credential", Sense::Credential),
    ("credentials", Sense::Credential),
    ("cookie", Sense::Credential),
    ("phone", Sense::Phone),
    ("phonenumber", Sense::Phone),
    ("phoneno", Sense::Phone),
    ("telephone", Sense::Phone),
    ("tel", Sense::Phone),
    ("mobile", Sense::Phone),
    ("mobilenumber", Sense::Phone),
    ("msisdn", Sense::Phone),
    ("fax", Sense::Phone),
    ("version", Sense::Version),
    ("release", Sense::Version),
];

impl Sense {
    pub(in crate::redaction) fn of(key: &str) -> Self {
        let Some(last) = key.bytes().next_back() else { return Self::Unknown };
        // Most keys are settled by their last letter.
        let last = last.to_ascii_lowercase();
        let mut names = NAMES.iter().filter(|(name, _)| name.bytes().next_back() == Some(last));
        names.find(|(name, _)| ends_with(key, name)).map_or(Self::Unknown, |(_, sense)| *sense)
    }
}

/// Whether the key's last words are that name, in any spelling: `api_key`, `x-api-key`, `ApiKey`.
fn ends_with(key: &str, name: &str) -> bool {
    let is_separator = |byte: &u8| matches!(byte, b'_' | b'-' | b'.' | b' ');
    let mut key = key.bytes().rev().filter(|byte| !is_separator(byte));
    name.bytes().rev().all(|letter| key.next().is_some_and(|byte| byte.to_ascii_lowercase() == letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_told_by_its_last_words() {
        for key in ["password", "db.Password", "apiKey", "x-api-key", "http.request.header.authorization"] {
            assert_eq!(Sense::of(key), Sense::Credential, "{key}");
        }
        for key in ["", "password.length", "gen_ai.usage.input_tokens", "secret.name", "key", "desk"] {
            assert_eq!(Sense::of(key), Sense::Unknown, "{key}");
        }
        assert_eq!(Sense::of("user.phone_number"), Sense::Phone);
        assert_eq!(Sense::of("service.version"), Sense::Version);
    }
}
