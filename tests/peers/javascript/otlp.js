// Sends known numbers of spans, data points and log records with the OpenTelemetry SDK for JavaScript.
//
// Numbers, environment and answer are those of python/otlp.py; it also speaks http/json.
"use strict";

const { ROOT_CONTEXT, SpanKind, trace } = require("@opentelemetry/api");
const { resourceFromAttributes } = require("@opentelemetry/resources");
const { BasicTracerProvider, BatchSpanProcessor } = require("@opentelemetry/sdk-trace-base");
const { MeterProvider, PeriodicExportingMetricReader } = require("@opentelemetry/sdk-metrics");
const { BatchLogRecordProcessor, LoggerProvider } = require("@opentelemetry/sdk-logs");

const SPANS = 500;
const LOGS = 300;
const SERIES = 40;
const COLLECTIONS = 5;

const protocol = process.env.OTEL_EXPORTER_OTLP_PROTOCOL;
const counts = { spans: 0, points: 0, logs: 0, failures: 0 };

// The exporter, counting what it was told "ok" for.
function counting(signal, name, count, size) {
  const packages = { grpc: "grpc", "http/protobuf": "proto", "http/json": "http" };
  if (!packages[protocol]) throw new Error(`this SDK does not speak ${protocol}`);
  const exporter = new (require(`@opentelemetry/exporter-${signal}-otlp-${packages[protocol]}`)[name])();
  const send = exporter.export.bind(exporter);
  exporter.export = (batch, done) =>
    send(batch, (result) => {
      if (result.code === 0) counts[count] += size(batch);
      else {
        counts.failures += 1;
        console.error(String(result.error));
      }
      done(result);
    });
  return exporter;
}

const length = (batch) => batch.length;
const points = (data) =>
  data.scopeMetrics.flatMap((scope) => scope.metrics).reduce((sum, metric) => sum + metric.dataPoints.length, 0);

async function main() {
  const resource = resourceFromAttributes({ "service.name": "javascript-peer", "service.version": "1.2.3" });
  const spanProcessor = new BatchSpanProcessor(
    counting("trace", "OTLPTraceExporter", "spans", length), { maxExportBatchSize: 64 });
  const tracerProvider = new BasicTracerProvider({ resource, spanProcessors: [spanProcessor] });
  const tracer = tracerProvider.getTracer("watershed.peers", "1");
  for (let number = 0; number < SPANS / 2; number++) {
    const attributes = { order: number, gift: number % 2 === 0 };
    const order = tracer.startSpan("order", { kind: SpanKind.SERVER, attributes }, ROOT_CONTEXT);
    order.addEvent("checked", { items: [1, 2, 3] });
    const inside = trace.setSpan(ROOT_CONTEXT, order);
    tracer.startSpan("payment", { attributes: { amount: number / 4, currency: "EUR" } }, inside).end();
    order.end();
  }
  await tracerProvider.forceFlush();

  // Collected by hand: so many series, so many times.
  const reader = new PeriodicExportingMetricReader({
    exporter: counting("metrics", "OTLPMetricExporter", "points", points),
    exportIntervalMillis: 3_600_000,
  });
  const meterProvider = new MeterProvider({ resource, readers: [reader] });
  const meter = meterProvider.getMeter("watershed.peers", "1");
  const orders = meter.createCounter("orders", { unit: "1" });
  const durations = meter.createHistogram("duration", { unit: "ms" });
  for (let collection = 0; collection < COLLECTIONS; collection++) {
    for (let series = 0; series < SERIES; series++) {
      orders.add(1 + collection, { series });
      durations.record(series * 1.5, { series });
    }
    await meterProvider.forceFlush();
  }

  const logProcessor = new BatchLogRecordProcessor({
    exporter: counting("logs", "OTLPLogExporter", "logs", length), maxExportBatchSize: 64 });
  const loggerProvider = new LoggerProvider({ resource, processors: [logProcessor] });
  const logger = loggerProvider.getLogger("watershed.peers", "1");
  for (let number = 0; number < LOGS; number++) {
    logger.emit({ severityNumber: 13, severityText: "WARN", body: `order ${number}: the payment took long`, attributes: { order: number } });
  }
  await loggerProvider.forceFlush();

  const made = counts.points;
  for (const provider of [tracerProvider, meterProvider, loggerProvider]) await provider.shutdown();
  if (made !== 2 * SERIES * COLLECTIONS) throw new Error(`the SDK made ${made} data points`);
  const sdk = require("@opentelemetry/sdk-trace-base/package.json").version;
  console.log(JSON.stringify({ sdk, ...counts }));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
