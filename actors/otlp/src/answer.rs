//! Questions and answers: the table that all protocols share, and what is OTLP's own, the names of its methods and
//! partial success.

pub(crate) use watershed_stage::answer::{failure, grpc_code, http_status, response, shortage};
use watershed_stage::{Partial, Signal};
use watershed_telemetry::wire::{Fields, Value};

/// The path of a signal's `Export` method.
pub(crate) fn method(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    }
}

/// The signal whose `Export` method `path` is.
pub(crate) fn signal(path: &str) -> Option<Signal> {
    Signal::ALL.into_iter().find(|signal| method(*signal) == path)
}

/// What a destination said of a batch it took.
pub(crate) fn partial(response: &[u8]) -> Partial {
    let mut partial = Partial::default();
    for success in messages(response, 1) {
        for field in Fields::new(success).map_while(Result::ok) {
            match (field.number, field.value) {
                // A negative count is a defect of the destination; nothing was rejected.
                (1, Value::Varint(rejected)) => {
                    partial.rejected = u64::try_from(rejected as i64).unwrap_or(0)
                }
                (2, Value::Bytes(message)) => partial.message = String::from_utf8_lossy(message).into_owned(),
                _ => {}
            }
        }
    }
    partial
}

fn messages(bytes: &[u8], number: u32) -> impl Iterator<Item = &[u8]> {
    Fields::new(bytes).map_while(Result::ok).filter_map(move |field| match field.value {
        Value::Bytes(message) if field.number == number => Some(message),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_signals_are_inverse() {
        for signal in Signal::ALL {
            assert_eq!(super::signal(method(signal)), Some(signal));
        }
        assert_eq!(
            super::signal("/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export"),
            None
        );
    }

    #[test]
    fn a_partial_success_is_read() {
        assert_eq!(partial(&[]), Partial::default());
        let response = [0x0a, 6, 0x08, 7, 0x12, 2, b'n', b'o'];
        assert_eq!(partial(&response), Partial { rejected: 7, message: "no".into(), which: None });
        assert_eq!(partial(&[0x0a, 200]), Partial::default(), "garbage is no reason to resend");
    }
}
