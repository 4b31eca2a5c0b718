//! How often a sender may come: the generic cell rate algorithm, a bucket a sender.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::{DashMapStateStore, ShrinkableKeyedStateStore};
use governor::{Quota, RateLimiter};
use http::HeaderMap;
use tokio::time::Instant;

use crate::origin::Identity;
use crate::registry::{KeyError, Settings};

/// Senders whose buckets are full again are forgotten every so many requests,
const SWEEP: u32 = 4096;

/// and so often, in milliseconds.
const SWEEP_PERIOD: u64 = 10_000;

/// The most buckets: some 10 MB. Who comes when all are taken shares one with all others of whom that is true.
const MOST: usize = 100_000;

/// Whose bucket that is.
const OVERFLOW: Key = [0; 2];

/// How often each sender may come (`rate_limit`).
#[derive(Clone, Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimitSettings {
    /// Requests a second that a sender may make in the long run.
    requests_per_second: u32,
    /// Requests it may make at once after a pause; as many as a second's unless told.
    #[serde(default)]
    burst: Option<u32>,
    /// What tells senders apart.
    #[serde(default)]
    by: LimitBy,
    /// The header that tells senders apart, for `by = "header"`.
    #[serde(default)]
    header: Option<String>,
}

/// What tells senders apart.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum LimitBy {
    /// The address of the connection; of an IPv6 address the first 64 bits, which is what one customer is given.
    #[default]
    Address,
    /// Who the sender proved to be. Needs `auth`.
    Identity,
    /// The value of a header. What has none shares one bucket.
    Header,
}

/// The buckets of a listener.
pub struct RateLimit {
    by: LimitBy,
    header: Option<String>,
    buckets: RateLimiter<Key, Buckets, Ticking, NoOpMiddleware<Nanos>>,
    /// What keys are made with, so that nobody can choose two of the same.
    secret: [RandomState; 2],
    passed: AtomicU32,
    /// When it was last swept, in milliseconds of the clock.
    swept: AtomicU64,
}

/// A sender, by a hash: what senders call themselves is as long as they like.
type Key = [u64; 2];

/// A bucket for each of [`MOST`] senders.
#[derive(Default)]
struct Buckets(DashMapStateStore<Key>);

/// The runtime's clock, which tests can stop.
#[derive(Clone)]
struct Ticking(Instant);

// === impl RateLimitSettings ===

impl Settings for RateLimitSettings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = Vec::new();
        if self.requests_per_second == 0 {
            errors.push(KeyError::new("requests_per_second", "must be positive"));
        }
        if self.burst == Some(0) {
            errors.push(KeyError::new("burst", "must be positive"));
        }
        match (&self.header, self.by) {
            (None, LimitBy::Header) => {
                errors.push(KeyError::new("header", "`by = \"header\"` needs its name"))
            }
            (Some(_), LimitBy::Address | LimitBy::Identity) => {
                errors.push(KeyError::new("header", "is only for `by = \"header\"`"));
            }
            _ => {}
        }
        errors
    }
}

impl RateLimitSettings {
    /// Empty buckets of these settings; `None` if a number is zero, which [`Settings::check`] says.
    pub fn build(&self) -> Option<RateLimit> {
        let rate = NonZeroU32::new(self.requests_per_second)?;
        let quota = Quota::per_second(rate).allow_burst(self.burst.map_or(Some(rate), NonZeroU32::new)?);
        let buckets = RateLimiter::new(quota, Buckets::default(), Ticking(Instant::now()));
        Some(RateLimit {
            by: self.by,
            header: self.header.clone(),
            buckets,
            secret: Default::default(),
            passed: AtomicU32::new(0),
            swept: AtomicU64::new(0),
        })
    }

    /// Whether senders are told apart by who they proved to be.
    pub fn needs_identity(&self) -> bool {
        self.by == LimitBy::Identity
    }
}

// === impl RateLimit ===

impl RateLimit {
    /// Whether senders are told apart by who they proved to be.
    pub(super) fn is_by_identity(&self) -> bool {
        self.by == LimitBy::Identity
    }

    /// Takes one request out of the sender's bucket, or says how long until there is one.
    pub(super) fn pass(
        &self,
        headers: &HeaderMap,
        peer: Option<SocketAddr>,
        identity: Option<&Identity>,
    ) -> Result<(), Duration> {
        let key = match (self.by, &self.header) {
            (LimitBy::Header, Some(header)) => {
                self.key(headers.get(header).map_or(&b""[..], |value| value.as_bytes()))
            }
            (LimitBy::Identity, _) => self.key(identity.map(|Identity(parts)| parts)),
            _ => self.key(peer.map(|peer| customer(peer.ip()))),
        };
        self.sweep();
        self.buckets.check_key(&key).map_err(|until| until.wait_time_from(self.buckets.clock().now()))
    }

    fn key(&self, sender: impl Hash) -> Key {
        self.secret.each_ref().map(|secret| secret.hash_one(&sender))
    }

    fn sweep(&self) {
        let now = self.buckets.clock().0.elapsed().as_millis() as u64;
        let is_late = now.saturating_sub(self.swept.load(Ordering::Relaxed)) >= SWEEP_PERIOD;
        if self.passed.fetch_add(1, Ordering::Relaxed) % SWEEP == SWEEP - 1 || is_late {
            self.swept.store(now, Ordering::Relaxed);
            self.buckets.retain_recent();
            self.buckets.shrink_to_fit();
        }
    }
}

/// The address by which one customer is known.
fn customer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address @ IpAddr::V4(_) => address,
    }
}

// === impl Buckets ===

impl StateStore for Buckets {
    type Key = Key;

    fn measure_and_replace<T, F, E>(&self, key: &Key, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let Self(buckets) = self;
        let has_one = buckets.contains_key(key) || buckets.len() < MOST;
        buckets.measure_and_replace(if has_one { key } else { &OVERFLOW }, measure)
    }
}

impl ShrinkableKeyedStateStore<Key> for Buckets {
    fn retain_recent(&self, drop_below: Nanos) {
        self.0.retain_recent(drop_below);
    }

    fn shrink_to_fit(&self) {
        ShrinkableKeyedStateStore::shrink_to_fit(&self.0);
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

// === impl Ticking ===

impl Clock for Ticking {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(self.0.elapsed())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn limit(settings: &str) -> RateLimit {
        let settings: RateLimitSettings = toml::from_str(settings).unwrap();
        assert_eq!(settings.check(), []);
        settings.build().unwrap()
    }

    fn from(limit: &RateLimit, peer: &str) -> Result<(), Duration> {
        limit.pass(&HeaderMap::new(), Some(peer.parse().unwrap()), None)
    }

    #[tokio::test(start_paused = true)]
    async fn a_sender_has_its_burst_and_then_its_rate() {
        let limit = limit("requests_per_second = 10\nburst = 3");
        for _ in 0..3 {
            from(&limit, "192.0.2.1:1").unwrap();
        }
        let wait = from(&limit, "192.0.2.1:2").unwrap_err();
        assert!(wait > Duration::ZERO && wait <= Duration::from_millis(100), "{wait:?}");
        from(&limit, "192.0.2.2:1").unwrap();
        tokio::time::advance(wait).await;
        from(&limit, "192.0.2.1:3").unwrap();
        from(&limit, "192.0.2.1:3").unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn an_ipv6_customer_has_one_bucket_for_all_its_addresses() {
        let limit = limit("requests_per_second = 1");
        from(&limit, "[2001:db8::1]:1").unwrap();
        from(&limit, "[2001:db8::2]:1").unwrap_err();
        from(&limit, "[2001:db8:0:1::1]:1").unwrap();
        from(&limit, "192.0.2.1:1").unwrap();
        from(&limit, "[::ffff:192.0.2.1]:1").unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn senders_who_have_gone_are_forgotten() {
        let limit = limit("requests_per_second = 1000\nby = 'header'\nheader = 'x-tenant'");
        for tenant in 0..3 * SWEEP {
            let headers = HeaderMap::from_iter([("x-tenant".parse().unwrap(), tenant.into())]);
            limit.pass(&headers, None, None).unwrap();
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!(limit.buckets.len() <= SWEEP as usize + 1, "{}", limit.buckets.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_names_takes_no_more_than_its_share() {
        let limit = limit("requests_per_second = 1\nby = 'header'\nheader = 'x-tenant'");
        let comes = |tenant: usize| {
            let headers = HeaderMap::from_iter([("x-tenant".parse().unwrap(), tenant.into())]);
            limit.pass(&headers, None, None)
        };
        for tenant in 0..MOST {
            comes(tenant).unwrap();
        }
        comes(MOST).unwrap();
        comes(MOST + 1).unwrap_err();
        comes(0).unwrap_err();
        assert_eq!(limit.buckets.len(), MOST + 1);
        tokio::time::advance(Duration::from_millis(SWEEP_PERIOD)).await;
        comes(0).unwrap();
        assert_eq!(limit.buckets.len(), 1, "time forgets them as well as requests");
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        let settings: RateLimitSettings =
            toml::from_str("requests_per_second = 0\nburst = 0\nby = 'header'").unwrap();
        let keys: Vec<String> = settings.check().into_iter().map(|error| error.key).collect();
        assert_eq!(keys, ["requests_per_second", "burst", "header"]);
    }
}
