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

/// The names that end with a letter, a bit for each.
static BY_LAST: [u32; 256] = {
    let mut by_last = [0; 256];
    let mut index = 0;
    while index < NAMES.len() {
        let name = NAMES[index].0.as_bytes();
        by_last[name[name.len() - 1] as usize] |= 1 << index;
        index += 1;
    }
    by_last
};

// === impl Sense ===

impl Sense {
    pub(in crate::redaction) fn of(key: &str) -> Self {
        let Some(last) = key.as_bytes().last() else { return Self::Unknown };
        // Most keys are settled by their last letter.
        let mut names = BY_LAST[usize::from(last.to_ascii_lowercase())];
        while let Some((name, sense)) = NAMES.get(names.trailing_zeros() as usize) {
            if ends_with(key, name) {
                return *sense;
            }
            names &= names - 1;
        }
        Self::Unknown
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
