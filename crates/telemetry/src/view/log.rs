//! Log records (`logs.proto`).

use crate::message::Message;
use crate::view::{AnyValueView, Attributes};

view! {
    /// A log record (`LogRecord`).
    LogRecordView {
        /// When it happened, in nanoseconds since the Unix epoch; 0 if unknown.
        time_unix_nano: u64 = fixed64(1);
        /// When it was collected, in nanoseconds since the Unix epoch.
        observed_time_unix_nano: u64 = fixed64(11);
        /// `SeverityNumber`, 0 (unspecified) to 24. Open.
        severity_number: i32 = int32(2);
        /// The severity as the source calls it.
        severity_text: &'a str = text(3);
        /// The body, of any type.
        body: AnyValueView<'a> = child(5);
        /// The record's attributes.
        attributes: Attributes<'a> = attributes(6);
        /// How many attributes the sender left out.
        dropped_attributes_count: u32 = uint32(7);
        /// Bits 0-7 W3C trace flags.
        flags: u32 = fixed32(8);
        /// 16 bytes, or empty if absent.
        trace_id: &'a [u8] = bytes(9);
        /// 8 bytes, or empty if absent.
        span_id: &'a [u8] = bytes(10);
        /// Names the event's type; empty for records that are no events.
        event_name: &'a str = text(12);
    }
}
