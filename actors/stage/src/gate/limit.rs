//! How often a sender may come: the generic cell rate algorithm, a bucket a sender.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use http::HeaderMap;
use tokio::time::Instant;

use crate::origin::Identity;
use crate::registry::{KeyError, Settings};

/// Senders whose buckets are full again are forgotten every so many requests.
const SWEEP: u32 = 4096;

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
    buckets: RateLimiter<Key, DashMapStateStore<Key>, Ticking, NoOpMiddleware<Nanos>>,
    passed: AtomicU32,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Address(Option<IpAddr>),
    Text(Box<str>),
}

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
        let buckets = RateLimiter::new(quota, DashMapStateStore::default(), Ticking(Instant::now()));
        Some(RateLimit { by: self.by, header: self.header.clone(), buckets, passed: AtomicU32::new(0) })
    }

    /// Whether senders are told apart by who they proved to be.
    pub fn needs_identity(&self) -> bool {
        self.by == LimitBy::Identity
    }
}

// === impl RateLimit ===

impl RateLimit {
    /// Takes one request out of the sender's bucket, or says how long until there is one.
    pub(super) fn pass(
        &self,
        headers: &HeaderMap,
        peer: Option<SocketAddr>,
        identity: Option<&Identity>,
    ) -> Result<(), Duration> {
        let key = match (self.by, &self.header) {
            (LimitBy::Header, Some(header)) => {
                let value = headers.get(header).map_or(&b""[..], |value| value.as_bytes());
                Key::Text(String::from_utf8_lossy(value).into())
            }
            (LimitBy::Identity, _) => {
                let parts = identity.into_iter().flat_map(|Identity(parts)| parts);
                Key::Text(parts.map(|(key, value)| format!("{key}={value}\n")).collect())
            }
            _ => Key::Address(peer.map(|peer| customer(peer.ip()))),
        };
        if self.passed.fetch_add(1, Ordering::Relaxed) % SWEEP == SWEEP - 1 {
            self.buckets.retain_recent();
            self.buckets.shrink_to_fit();
        }
        self.buckets.check_key(&key).map_err(|until| until.wait_time_from(self.buckets.clock().now()))
    }
}

/// The address by which one customer is known.
fn customer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address @ IpAddr::V4(_) => address,
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

    #[test]
    fn what_makes_no_sense_is_said() {
        let settings: RateLimitSettings =
            toml::from_str("requests_per_second = 0\nburst = 0\nby = 'header'").unwrap();
        let keys: Vec<String> = settings.check().into_iter().map(|error| error.key).collect();
        assert_eq!(keys, ["requests_per_second", "burst", "header"]);
    }
}
