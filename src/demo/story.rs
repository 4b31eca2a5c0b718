//! The story of a checkout.
//!
//! ```text
//! api-gateway  POST /checkout           |------------------------------| 700 ms
//! order        create order               |------------------------|     600 ms
//! payment      charge card                |------|                       200 ms
//! inventory    reserve items                     |--------|              250 ms
//! database     INSERT orders                              |-----|        150 ms
//! ```
//!
//! Now and then a card is declined, and now and then the database is slow. Times are written, not waited for.

use std::time::{Duration, SystemTime};

use opentelemetry::logs::Severity;
use opentelemetry::trace::{Span as _, SpanContext, SpanKind, Status, TraceContextExt as _, Tracer as _};
use opentelemetry::{Context, KeyValue};

use super::services::{Service, Shop};

/// Of so many checkouts, one is declined.
const DECLINED: usize = 9;

/// Of so many checkouts, one meets a slow database.
const SLOW: usize = 13;

/// What the slow database takes longer.
const LAG: Duration = ms(1_850);

/// The time between two checkouts of the story.
const BETWEEN: Duration = ms(150);

/// One checkout.
pub(super) struct Story {
    order: String,
    customer: String,
    cents: i64,
    declined: bool,
    lag: Duration,
    stock: i64,
    at: SystemTime,
}

/// A request that a service serves, as its span says it.
struct Request<'a> {
    service: &'a Service,
    name: &'static str,
    kind: SpanKind,
    start: SystemTime,
    end: SystemTime,
    attributes: Vec<KeyValue>,
    /// Why it failed: the exception's type and message.
    failure: Option<(&'static str, &'static str)>,
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

// === impl Story ===

impl Story {
    /// Checkout number `index` of `all`; the last one ends about `now`.
    pub(super) fn number(index: usize, all: usize, now: SystemTime) -> Self {
        let before = BETWEEN * u32::try_from(all.saturating_sub(index)).unwrap_or(u32::MAX);
        Self {
            order: format!("order-{:05}", index + 1),
            customer: format!("customer-{:03}", index * 37 % 500),
            cents: 990 + (index as i64 * 1_729) % 20_000,
            declined: index % DECLINED == DECLINED - 2,
            lag: if index % SLOW == SLOW - 3 { LAG } else { Duration::ZERO },
            stock: 10_000 - index as i64,
            at: now.checked_sub(before).unwrap_or(now),
        }
    }

    /// Tells it as spans, metrics and log records.
    pub(super) fn tell(&self, shop: &Shop) {
        let start = self.at;
        // What a declined card spares, and what a slow database costs, all who wait for it feel.
        let (reserve, lag) = (if self.declined { Duration::ZERO } else { ms(250) }, self.lag);
        let paid = start + ms(50) + ms(200);
        let reserved = paid + reserve;
        let stored = reserved + ms(150) + lag;
        let declined = |kind, message| self.declined.then_some((kind, message));

        let gateway = Request {
            service: &shop.gateway,
            name: "POST /checkout",
            kind: SpanKind::Server,
            start,
            end: stored + ms(50),
            attributes: vec![
                KeyValue::new("http.request.method", "POST"),
                KeyValue::new("http.route", "/checkout"),
                KeyValue::new("http.response.status_code", if self.declined { 402 } else { 201 }),
                KeyValue::new("enduser.id", self.customer.clone()),
            ],
            failure: declined("PaymentRequired", "the payment was declined"),
        }
        .serve(shop, None);
        let order = Request {
            service: &shop.order,
            name: "create order",
            kind: SpanKind::Server,
            start: start + ms(50),
            end: stored,
            attributes: vec![
                KeyValue::new("shop.order.id", self.order.clone()),
                KeyValue::new("shop.order.total_cents", self.cents),
            ],
            failure: declined("OrderRejected", "the order was not paid"),
        }
        .serve(shop, Some(&gateway));
        let payment = Request {
            service: &shop.payment,
            name: "charge card",
            kind: SpanKind::Server,
            start: start + ms(50),
            end: paid,
            attributes: vec![KeyValue::new("shop.payment.provider", "acme-pay")],
            failure: declined("CardDeclined", "insufficient funds"),
        }
        .serve(shop, Some(&order));
        self.log_payment(shop, paid, &payment);
        if !self.declined {
            let attributes = vec![KeyValue::new("shop.items", 3)];
            let (kind, failure) = (SpanKind::Server, None);
            let service = &shop.inventory;
            let inventory = Request {
                service,
                name: "reserve items",
                kind,
                start: paid,
                end: reserved,
                attributes,
                failure,
            }
            .serve(shop, Some(&order));
            self.log(shop, service, reserved, Severity::Info, "items reserved", &inventory);
            shop.stock.record(self.stock, &[KeyValue::new("shop.warehouse", "north")]);
        }
        let database = Request {
            service: &shop.database,
            name: "INSERT orders",
            kind: SpanKind::Client,
            start: reserved,
            end: stored,
            attributes: vec![
                KeyValue::new("db.system.name", "postgresql"),
                KeyValue::new("db.collection.name", "orders"),
            ],
            failure: None,
        }
        .serve(shop, Some(&order));
        if !lag.is_zero() {
            let body = "slow query: waited for a lock on orders";
            self.log(shop, &shop.database, stored, Severity::Warn, body, &database);
        }
        let (severity, body, outcome) = match self.declined {
            true => (Severity::Warn, "order rejected", "declined"),
            false => (Severity::Info, "order created", "paid"),
        };
        self.log(shop, &shop.order, stored, severity, body, &order);
        self.log(shop, &shop.gateway, stored + ms(50), Severity::Info, "POST /checkout answered", &gateway);
        shop.checkouts.add(1, &[KeyValue::new("outcome", outcome)]);
    }

    fn log_payment(&self, shop: &Shop, at: SystemTime, payment: &SpanContext) {
        let (severity, body) = match self.declined {
            true => (Severity::Error, "card declined: insufficient funds"),
            false => (Severity::Info, "card charged"),
        };
        self.log(shop, &shop.payment, at, severity, body, payment);
    }

    fn log(
        &self,
        shop: &Shop,
        service: &Service,
        at: SystemTime,
        severity: Severity,
        body: &'static str,
        within: &SpanContext,
    ) {
        let attributes =
            vec![("shop.order.id", self.order.clone().into()), ("shop.order.total_cents", self.cents.into())];
        service.log(at, severity, body, within, attributes);
        shop.counts.logs.make();
    }
}

// === impl Request ===

impl Request<'_> {
    /// Writes its span and its duration; what a request within it belongs to.
    fn serve(self, shop: &Shop, parent: Option<&SpanContext>) -> SpanContext {
        let context = match parent {
            // As it arrives from another process.
            Some(parent) => Context::new().with_remote_span_context(parent.clone()),
            None => Context::new(),
        };
        let tracer = &self.service.tracer;
        let builder = tracer
            .span_builder(self.name)
            .with_kind(self.kind)
            .with_start_time(self.start)
            .with_attributes(self.attributes);
        let mut span = tracer.build_with_context(builder, &context);
        if let Some((kind, message)) = self.failure {
            let attributes =
                vec![KeyValue::new("exception.type", kind), KeyValue::new("exception.message", message)];
            span.add_event_with_timestamp("exception", self.end, attributes);
            span.set_status(Status::error(message));
        }
        let context = span.span_context().clone();
        span.end_with_timestamp(self.end);
        shop.counts.traces.make();
        let duration = self.end.duration_since(self.start).unwrap_or_default();
        self.service
            .duration
            .record(duration.as_secs_f64(), &[KeyValue::new("error", self.failure.is_some())]);
        context
    }
}
