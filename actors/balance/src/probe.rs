//! Looking whether a backend works: again and again while it says nothing by itself, and at once where there is a reason
//! to doubt it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use http::{HeaderMap, StatusCode, Uri};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use watershed_net::{
    CallError, CallErrorKind, Client, Code, HttpAnswer, HttpClient, HttpError, HttpErrorKind,
};
use watershed_stage::Env;
use watershed_telemetry::wire::{self, Fields, Value};

use crate::health::{HealthSettings, ProbeKind, Probed};
use crate::pool::{Backend, Pool};

/// `grpc.health.v1.Health`.
const CHECK: &str = "/grpc.health.v1.Health/Check";

/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: u64 = 1;

/// However many exports fail at once, a probe a moment is enough.
const MOMENT: Duration = Duration::from_millis(10);

/// How long a probe goes on that was not answered in time: opening a connection takes several round trips, and the next
/// probe finds it open.
const LINGERS: Duration = Duration::from_secs(2);

/// How late a timer may be before it says more of this process than of the backend.
const STARVED: Duration = Duration::from_millis(50);

/// What speaks to a backend over a connection that is kept.
#[derive(Clone)]
pub enum Caller {
    /// Over gRPC.
    Grpc(Client),
    /// Over HTTP, to this URL.
    Http(HttpClient, Uri),
}

/// A probe under way: what it came to, and who was asked by.
type Under = LocalBoxFuture<'static, (Probed, Option<Caller>)>;

/// Probes a backend for as long as a resolver knows it.
pub(crate) async fn watch(pool: Arc<Pool>, backend: Arc<Backend>, env: Env) {
    let settings = &pool.plan.health;
    // The connection that the last probe was answered over. A new one each time would cost a handshake, and say less: that
    // somebody accepts, and not that those who are connected are answered. One that is dead costs a single `timeout`: the
    // next probe does not wait for it, and opens its own.
    let mut caller = None;
    let mut under_way: FuturesUnordered<Under> = FuturesUnordered::new();
    let mut random = u64::from(std::process::id()) ^ crate::ring::hash(0, backend.name.as_bytes());
    while !backend.is_gone() {
        // One that has not been answered in time, and another on a connection of its own: the first one's may be dead.
        if under_way.len() < 2 {
            under_way.push(probe(&pool, &backend, &env, &mut caller));
        }
        let began = Instant::now();
        match timeout(settings.timeout.0, under_way.next()).await {
            Ok(Some((Probed::Silent(_), _))) => pool.probed(&backend, Probed::Silent(began)),
            Ok(Some((probed, by))) => {
                pool.probed(&backend, probed);
                // The others ask the same.
                under_way.clear();
                caller = by;
            }
            // Whoever was not awake has not waited.
            _ if began.elapsed() > settings.timeout.0 + STARVED => continue,
            _ => {
                caller = None;
                pool.probed(&backend, Probed::Silent(began));
            }
        }
        if !backend.is_doubted() {
            random = crate::ring::mix(random.wrapping_add(1));
            let jitter = 0.9 + 0.2 * crate::ring::fraction(random);
            // What is answered too late opens the connection for the next.
            let linger = async {
                while let Some((probed, by)) = under_way.next().await {
                    if probed == Probed::Answered {
                        caller = by;
                    }
                }
                std::future::pending().await
            };
            tokio::select! {
                () = silence(&backend, settings.interval.0.mul_f64(jitter)) => {}
                () = backend.suspected.notified() => {}
                () = linger => {}
            }
        }
        sleep(MOMENT).await;
    }
}

/// Ready when a backend has said nothing for so long.
async fn silence(backend: &Backend, interval: Duration) {
    let began = Instant::now();
    loop {
        let due = backend.heard().map_or(began, |heard| heard.max(began)) + interval;
        if due <= Instant::now() {
            return;
        }
        sleep_until(due).await;
    }
}

fn probe(pool: &Pool, backend: &Backend, env: &Env, caller: &mut Option<Caller>) -> Under {
    let HealthSettings { kind, service, timeout: patience, .. } = &pool.plan.health;
    let (patience, service) = (patience.0.max(LINGERS), service.clone());
    let address = address(&backend.endpoint);
    if *kind == ProbeKind::Tcp {
        return Box::pin(async move { (connect(&address, patience).await, None) });
    }
    if caller.is_none() {
        match pool.plan.backends.caller(&backend.endpoint, env) {
            Ok(opened) => *caller = Some(opened),
            Err(error) if backend.is_used() => {
                tracing::error!(backend = %backend.name, %error, "a backend can not be probed");
            }
            // It was said.
            Err(_) => {}
        }
    }
    let caller = caller.clone();
    Box::pin(async move {
        let asked = match &caller {
            None => Some(Probed::Silent(Instant::now())),
            Some(Caller::Grpc(client)) => {
                let mut request = Vec::new();
                if !service.is_empty() {
                    wire::put_bytes_field(&mut request, 1, service.as_bytes());
                }
                let request = [Bytes::from(request)];
                let answer = client.unary(CHECK, &HeaderMap::new(), &request, Some(patience)).await;
                judge(answer, &service)
            }
            Some(Caller::Http(client, url)) => judge_http(client.get(url, &HeaderMap::new(), patience).await),
        };
        (or_connect(asked, &address, patience).await, caller)
    })
}

/// What a request came to; where there was no connection for it, what that came to.
async fn or_connect(judged: Option<Probed>, address: &str, patience: Duration) -> Probed {
    match judged {
        Some(probed) => probed,
        None => match connect(address, patience).await {
            // It takes connections, though not as it was asked to.
            Probed::Answered => Probed::Silent(Instant::now()),
            probed => probed,
        },
    }
}

async fn connect(address: &str, patience: Duration) -> Probed {
    let began = Instant::now();
    match timeout(patience, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Probed::Answered,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Probed::Refused,
        _ => Probed::Silent(began),
    }
}

/// Whom to connect to for an endpoint or a URL.
fn address(endpoint: &str) -> String {
    let (scheme, rest) = endpoint.split_once("://").unwrap_or(("", endpoint));
    let authority = rest.split('/').next().unwrap_or_default();
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
    match (has_port, scheme) {
        (true, _) => authority.to_owned(),
        (false, "https") => format!("{authority}:443"),
        (false, _) => format!("{authority}:80"),
    }
}

/// What a call came to; `None` where there was no connection.
fn judge(answer: Result<Bytes, CallError>, service: &str) -> Option<Probed> {
    let silent = Probed::Silent(Instant::now());
    Some(match answer {
        Ok(answer) => {
            let status = |field: wire::Field<'_>| match field {
                wire::Field { number: 1, value: Value::Varint(status), .. } => Some(status),
                _ => None,
            };
            let status = Fields::new(&answer).flatten().filter_map(status).last();
            if status == Some(SERVING) { Probed::Answered } else { Probed::Refused }
        }
        Err(CallError { kind: CallErrorKind::Answered, status }) => match status.code {
            // A proxy says so of whoever is behind it.
            Code::Unavailable => Probed::Refused,
            Code::NotFound if !service.is_empty() => Probed::Refused,
            // Without that service, or for others than us, it is alive at least.
            _ => Probed::Answered,
        },
        Err(CallError { kind: CallErrorKind::NotSent, status }) if status.code == Code::Unavailable => {
            return None;
        }
        Err(_) => silent,
    })
}

/// What a request over HTTP came to; `None` where there was no connection.
fn judge_http(answer: Result<HttpAnswer, HttpError>) -> Option<Probed> {
    const GONE: [StatusCode; 3] =
        [StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT];
    match answer {
        Ok(answer) if GONE.contains(&answer.status) => Some(Probed::Refused),
        Ok(_) => Some(Probed::Answered),
        Err(error) => match error.kind {
            HttpErrorKind::Connect => None,
            HttpErrorKind::TooLarge => Some(Probed::Answered),
            _ => Some(Probed::Silent(Instant::now())),
        },
    }
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod http_tests;

#[cfg(test)]
mod tests {
    use watershed_net::Status;

    use super::*;

    #[tokio::test]
    async fn a_connection_is_an_answer_and_a_refused_one_is_none() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap().to_string();
        let patience = Duration::from_secs(20);
        assert_eq!(connect(&to, patience).await, Probed::Answered);
        assert!(matches!(or_connect(None, &to, patience).await, Probed::Silent(_)));
        drop(listener);
        assert_eq!(connect(&to, patience).await, Probed::Refused);
        assert_eq!(or_connect(None, &to, patience).await, Probed::Refused);
    }

    #[test]
    fn an_address_is_what_is_connected_to() {
        for (endpoint, expected) in [
            ("gateway:4317", "gateway:4317"),
            ("http://gateway:4317", "gateway:4317"),
            ("[::1]:4317", "[::1]:4317"),
            ("https://gateway/otlp", "gateway:443"),
            ("http://[::1]", "[::1]:80"),
        ] {
            assert_eq!(address(endpoint), expected);
        }
    }

    #[test]
    fn only_serving_is_serving() {
        let judge = |answer| judge(answer, "");
        assert_eq!(judge(Ok(Bytes::from_static(&[8, 1]))), Some(Probed::Answered));
        for status in [&[8, 2][..], &[8, 0], &[]] {
            assert_eq!(judge(Ok(Bytes::copy_from_slice(status))), Some(Probed::Refused));
        }
    }

    #[test]
    fn whoever_answers_is_alive_unless_it_speaks_for_another() {
        let failed = |kind, code| Err(CallError { status: Status::new(code, "no"), kind });
        let answered = |code, service: &str| judge(failed(CallErrorKind::Answered, code), service);
        for code in [Code::Unimplemented, Code::Unauthenticated, Code::ResourceExhausted, Code::NotFound] {
            assert_eq!(answered(code, ""), Some(Probed::Answered), "{code:?}");
        }
        assert_eq!(answered(Code::Unavailable, ""), Some(Probed::Refused));
        assert_eq!(answered(Code::NotFound, "mine"), Some(Probed::Refused));
        assert_eq!(judge(failed(CallErrorKind::NotSent, Code::Unavailable), ""), None);
        for kind in [CallErrorKind::NotSent, CallErrorKind::Unknown] {
            let judged = judge(failed(kind, Code::DeadlineExceeded), "");
            assert!(matches!(judged, Some(Probed::Silent(_))), "{judged:?}");
        }
    }
}
