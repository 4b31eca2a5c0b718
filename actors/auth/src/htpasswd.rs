//! Users and their passwords, as Apache's `htpasswd` writes them: by bcrypt, or in plain text.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::credentials::{Fingerprint, fingerprint, is_one_of};

/// Who may come in.
pub(crate) struct Users {
    hashes: HashMap<String, Hash>,
    /// Checked in place of the hash that a stranger does not have, so that the time does not tell who is known.
    decoy: Hash,
    /// What was checked before: bcrypt takes milliseconds, which a lane can not spend on every request.
    checked: Checked,
}

#[derive(Clone)]
enum Hash {
    Bcrypt(String),
    Plain(Fingerprint),
}

/// Credentials that were found right or wrong, by a hash that is worth nothing outside of this process.
struct Checked {
    key: [u8; 32],
    /// Apart, so that no flood of wrong ones makes the right ones forgotten.
    right: Mutex<Remembered>,
    wrong: Mutex<Remembered>,
    /// Until then nothing new is checked.
    rests_until: Mutex<Option<Instant>>,
}

/// The last few.
struct Remembered {
    most: usize,
    set: HashSet<Fingerprint>,
    order: VecDeque<Fingerprint>,
}

/// How many are remembered at least; of many users, two senders each.
const REMEMBERED: usize = 1024;

/// The most that bcrypt may cost: about a second.
const COSTLIEST: u32 = 12;

/// After a wrong password nothing new is checked for so many times as long as that took: who guesses passwords has
/// a fifth of a lane at most.
const REST: u32 = 4;

// === impl Users ===

impl Users {
    /// Users out of lines of `name:hash`; what comes later wins. What is wrong is said by line, and not quoted.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut hashes = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let said = |problem: &str| format!("line {}: {problem}", index + 1);
            let (name, hash) = line.split_once(':').ok_or_else(|| said("is not `name:hash`"))?;
            hashes.insert(name.to_owned(), Hash::parse(hash).map_err(said)?);
        }
        let any = hashes.values().find(|hash| matches!(hash, Hash::Bcrypt(_)));
        let decoy = any.cloned().unwrap_or(Hash::Plain([0; 32]));
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|error| format!("the system has no random numbers: {error}"))?;
        let remembered = || Mutex::new(Remembered::new(REMEMBERED.max(2 * hashes.len())));
        let checked =
            Checked { key, right: remembered(), wrong: remembered(), rests_until: Mutex::default() };
        if hashes.is_empty() { Err("no user is in it".into()) } else { Ok(Self { hashes, decoy, checked }) }
    }

    /// Whether `name` has this password; or how long until that can be checked.
    pub fn is_right(&self, name: &str, password: &[u8]) -> Result<bool, Duration> {
        let hash = self.hashes.get(name);
        let is_right = match hash.unwrap_or(&self.decoy) {
            Hash::Plain(known) => is_one_of(password, &[*known]),
            Hash::Bcrypt(known) => self
                .checked
                .once(name, password, || hash.is_some() & bcrypt::verify(password, known).unwrap_or(false))?,
        };
        Ok(is_right && hash.is_some())
    }
}

// === impl Hash ===

impl Hash {
    fn parse(hash: &str) -> Result<Self, &'static str> {
        if ["$2a$", "$2b$", "$2y$"].iter().any(|prefix| hash.starts_with(prefix)) {
            let parts: bcrypt::HashParts = hash.parse().map_err(|_| "is a broken bcrypt hash")?;
            if parts.get_cost() > COSTLIEST {
                return Err("has a bcrypt cost above 12, which would take seconds for each new sender");
            }
            return Ok(Self::Bcrypt(hash.to_owned()));
        }
        if hash.starts_with('$') || hash.starts_with('{') {
            return Err("has a hash of a kind that is not supported: make it with `htpasswd -B`");
        }
        if hash.is_empty() { Err("has no password") } else { Ok(Self::Plain(fingerprint(hash.as_bytes()))) }
    }
}

// === impl Checked ===

impl Checked {
    fn once(&self, name: &str, password: &[u8], check: impl FnOnce() -> bool) -> Result<bool, Duration> {
        let digest = Sha256::new().chain_update(self.key).chain_update(name).chain_update([0]);
        let both: Fingerprint = digest.chain_update(password).finalize().into();
        if self.right.lock().set.contains(&both) {
            return Ok(true);
        }
        if self.wrong.lock().set.contains(&both) {
            return Ok(false);
        }
        let began = Instant::now();
        if let Some(end) = self.rests_until.lock().filter(|end| began < *end) {
            return Err(end - began);
        }
        let is_right = check();
        if is_right {
            self.right.lock().insert(both);
        } else {
            self.wrong.lock().insert(both);
            self.rest(began.elapsed() * REST);
        }
        Ok(is_right)
    }

    /// Has a lane do other things before the next new password is checked.
    fn rest(&self, rest: Duration) {
        *self.rests_until.lock() = Some(Instant::now() + rest);
        tracing::warn!(
            ?rest,
            "a user name or a password was wrong: for a while, others that are new are put off"
        );
    }
}

// === impl Remembered ===

impl Remembered {
    fn new(most: usize) -> Self {
        Self { most, set: HashSet::new(), order: VecDeque::new() }
    }

    fn insert(&mut self, both: Fingerprint) {
        if !self.set.insert(both) {
            return;
        }
        self.order.push_back(both);
        if self.order.len() > self.most
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_right(users: &Users, name: &str, password: &[u8]) -> bool {
        users.is_right(name, password).unwrap()
    }

    fn hashed(password: &str) -> String {
        bcrypt::hash(password, 4).unwrap()
    }

    // Time stands still, so that nothing rests.
    #[tokio::test(start_paused = true)]
    async fn passwords_are_right_by_bcrypt_and_in_plain_text() {
        let text = format!("# users\n\nann:{}\n bob:in plain: text \n", hashed("secret"));
        let users = Users::parse(&text).ok().unwrap();
        for _ in 0..2 {
            assert!(is_right(&users, "ann", b"secret") && is_right(&users, "bob", b"in plain: text"));
            assert!(
                !is_right(&users, "ann", b"Secret")
                    && !is_right(&users, "bob", b"in plain")
                    && !is_right(&users, "ann", b"")
            );
            // Ann's password is the decoy: it must not let in a stranger.
            assert!(!is_right(&users, "eve", b"secret") && !is_right(&users, "", b"secret"));
        }
    }

    #[test]
    fn without_any_bcrypt_a_stranger_is_a_stranger() {
        let users = Users::parse("bob:plain").ok().unwrap();
        assert!(!is_right(&users, "eve", b"plain") && !is_right(&users, "eve", b""));
    }

    #[tokio::test(start_paused = true)]
    async fn bcrypt_is_asked_once_for_the_same_credentials() {
        let users = Users::parse(&format!("ann:{}", hashed("secret"))).ok().unwrap();
        let mut asked = 0;
        for (name, password, is_right) in
            [("a", "b", true), ("a", "b", true), ("a", "c", false), ("a", "c", false)]
        {
            let found = users.checked.once(name, password.as_bytes(), || {
                asked += 1;
                is_right
            });
            assert_eq!(found, Ok(is_right));
        }
        assert_eq!(asked, 2);
        // Where a name ends and a password begins is a part of what is remembered.
        assert_eq!(users.checked.once("ab", b"", || false), Ok(false));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded_and_a_flood_drives_out_nobody() {
        let users = Users::parse("bob:plain").ok().unwrap();
        assert_eq!(users.checked.once("ann", b"secret", || true), Ok(true));
        for wrong in 0..2 * REMEMBERED {
            users.checked.once("eve", &wrong.to_be_bytes(), || false).unwrap();
        }
        let wrong = users.checked.wrong.lock();
        assert_eq!((wrong.set.len(), wrong.order.len()), (REMEMBERED, REMEMBERED));
        assert_eq!(users.checked.once("ann", b"secret", || false), Ok(true));
    }

    #[tokio::test(start_paused = true)]
    async fn who_guesses_passwords_holds_up_nobody_who_is_known() {
        let users = Users::parse("bob:plain").ok().unwrap();
        let checked = &users.checked;
        assert_eq!(checked.once("ann", b"secret", || true), Ok(true));
        checked.rest(Duration::from_secs(4));
        let put_off = checked.once("eve", b"guess", || panic!("nothing new is checked"));
        assert_eq!(put_off, Err(Duration::from_secs(4)));
        assert_eq!(checked.once("ann", b"secret", || false), Ok(true));
        tokio::time::advance(Duration::from_secs(4)).await;
        let checked = checked.once("eve", b"guess", || true);
        assert_eq!(checked, Ok(true), "what was not checked is not remembered as wrong");
    }

    #[tokio::test(start_paused = true)]
    async fn every_user_is_remembered() {
        let text: String = (0..REMEMBERED + 1).map(|user| format!("{user}:plain\n")).collect();
        let users = Users::parse(&text).ok().unwrap();
        for check in [true, false] {
            for user in 0..REMEMBERED + 1 {
                assert_eq!(users.checked.once(&user.to_string(), b"secret", || check), Ok(true));
            }
        }
    }

    #[test]
    fn what_can_not_be_read_is_said_by_line_and_not_quoted() {
        for (text, expected) in [
            ("", "no user is in it"),
            ("ann:a\nnobody", "line 2: is not `name:hash`"),
            ("ann:", "line 1: has no password"),
            ("ann:$2y$05$s3cret", "line 1: is a broken bcrypt hash"),
            (
                "ann:$apr1$s3cret$x",
                "line 1: has a hash of a kind that is not supported: make it with `htpasswd -B`",
            ),
            (
                "ann:{SHA}s3cret=",
                "line 1: has a hash of a kind that is not supported: make it with `htpasswd -B`",
            ),
        ] {
            assert_eq!(Users::parse(text).err().unwrap(), expected);
        }
        let costly = hashed("secret").replace("$04$", "$13$");
        assert!(Users::parse(&format!("ann:{costly}")).err().unwrap().contains("cost above 12"));
    }
}
