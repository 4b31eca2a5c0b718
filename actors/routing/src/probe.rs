//! Looking whether a backend works: again and again, and at once where there is a reason to doubt it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use watershed_net::{CallError, CallErrorKind, Client, Code};
use watershed_stage::Env;
use watershed_telemetry::wire::{self, Fields, Value};

use crate::health::{HealthSettings, ProbeKind, Probed};
use crate::pool::{Backend, Pool};

/// `grpc.health.v1.Health`.
const CHECK: &str = "/grpc.health.v1.Health/Check";

/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: u64 = 1;

/// Probes a backend for as long as a resolver knows it.
pub(crate) async fn watch(pool: Arc<Pool>, backend: Arc<Backend>, env: Env) {
    let settings = &pool.settings.health_check;
    let mut client = None;
    let mut random = u64::from(std::process::id()) ^ crate::ring::hash(0, backend.name.as_bytes());
    while !backend.is_gone() {
        let probed = match settings.kind {
            ProbeKind::Tcp => connect(&backend.endpoint, settings.timeout.0).await,
            ProbeKind::Grpc => check(&pool, &backend, &env, &mut client).await,
        };
        pool.probed(&backend, probed);
        if backend.is_doubted() {
            continue;
        }
        random = crate::ring::mix(random.wrapping_add(1));
        let jitter = 0.9 + 0.2 * (random >> 11) as f64 / (1_u64 << 53) as f64;
        tokio::select! {
            () = sleep(settings.interval.0.mul_f64(jitter)) => {}
            () = backend.suspected.notified() => {}
        }
        // However many exports fail at once, a probe a moment is enough.
        sleep(Duration::from_millis(10)).await;
    }
}

async fn connect(endpoint: &str, patience: Duration) -> Probed {
    let address = endpoint.rsplit_once("://").map_or(endpoint, |(_, address)| address);
    match timeout(patience, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Probed::Answered,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Probed::Refused,
        _ => Probed::Silent,
    }
}

async fn check(pool: &Pool, backend: &Backend, env: &Env, client: &mut Option<Client>) -> Probed {
    let HealthSettings { service, timeout, .. } = &pool.settings.health_check;
    if client.is_none() {
        match pool.settings.otlp(&backend.endpoint).client().open(env) {
            Ok((opened, _)) => *client = Some(opened),
            Err(error) => {
                tracing::error!(backend = %backend.name, %error, "a backend can not be probed");
                return Probed::Silent;
            }
        }
    }
    let Some(client) = client else { return Probed::Silent };
    let mut request = Vec::new();
    if !service.is_empty() {
        wire::put_bytes_field(&mut request, 1, service.as_bytes());
    }
    let answer = client.unary(CHECK, &HeaderMap::new(), &[Bytes::from(request)], Some(timeout.0)).await;
    judge(answer)
}

fn judge(answer: Result<Bytes, CallError>) -> Probed {
    match answer {
        Ok(answer) => {
            let status = |field: wire::Field<'_>| match field {
                wire::Field { number: 1, value: Value::Varint(status), .. } => Some(status),
                _ => None,
            };
            let status = Fields::new(&answer).flatten().filter_map(status).last();
            if status == Some(SERVING) { Probed::Answered } else { Probed::Refused }
        }
        // Without that service, it is alive at least.
        Err(error) if error.status.code == Code::Unimplemented => Probed::Answered,
        Err(CallError { kind: CallErrorKind::Answered, .. }) => Probed::Refused,
        Err(_) => Probed::Silent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_is_an_answer_and_a_refused_one_is_none() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let patience = Duration::from_secs(20);
        assert_eq!(connect(&address, patience).await, Probed::Answered);
        assert_eq!(connect(&format!("http://{address}"), patience).await, Probed::Answered);
        drop(listener);
        assert_eq!(connect(&address, patience).await, Probed::Refused);
    }

    #[test]
    fn only_serving_is_serving() {
        assert_eq!(judge(Ok(Bytes::from_static(&[8, 1]))), Probed::Answered);
        for status in [&[8, 2][..], &[8, 0], &[]] {
            assert_eq!(judge(Ok(Bytes::copy_from_slice(status))), Probed::Refused);
        }
    }
}
