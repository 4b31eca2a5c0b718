// Sends known numbers of spans with the OpenTelemetry SDK for JavaScript and its Zipkin exporter, to $WATERSHED_ENDPOINT, which
// is a whole URL. Prints as JSON what was acknowledged and how many exports were not.
"use strict";

const { ROOT_CONTEXT, SpanKind, SpanStatusCode, trace } = require("@opentelemetry/api");
const { ZipkinExporter } = require("@opentelemetry/exporter-zipkin");
const { resourceFromAttributes } = require("@opentelemetry/resources");
const { BasicTracerProvider, BatchSpanProcessor } = require("@opentelemetry/sdk-trace-base");

const SPANS = 500;

const counts = { spans: 0, points: 0, logs: 0, failures: 0 };

async function main() {
  const exporter = new ZipkinExporter({ url: process.env.WATERSHED_ENDPOINT });
  const send = exporter.export.bind(exporter);
  exporter.export = (batch, done) =>
    send(batch, (result) => {
      if (result.code === 0) counts.spans += batch.length;
      else {
        counts.failures += 1;
        console.error(String(result.error));
      }
      done(result);
    });
  const resource = resourceFromAttributes({ "service.name": "javascript-peer", "service.version": "1.2.3" });
  const spanProcessors = [new BatchSpanProcessor(exporter, { maxExportBatchSize: 64 })];
  const provider = new BasicTracerProvider({ resource, spanProcessors });
  const tracer = provider.getTracer("watershed.peers", "1");
  for (let number = 0; number < SPANS / 2; number++) {
    const attributes = { order: number, gift: number % 2 === 0, items: [1, 2, 3] };
    const order = tracer.startSpan("order", { kind: SpanKind.SERVER, attributes }, ROOT_CONTEXT);
    order.addEvent("checked");
    const inside = trace.setSpan(ROOT_CONTEXT, order);
    const options = { kind: SpanKind.CLIENT, attributes: { "peer.service": "bank" } };
    const payment = tracer.startSpan("payment", options, inside);
    if (number % 10 === 0) payment.setStatus({ code: SpanStatusCode.ERROR, message: "no funds" });
    payment.end();
    order.end();
  }
  await provider.forceFlush();
  await provider.shutdown();
  const sdk = require("@opentelemetry/sdk-trace-base/package.json").version;
  console.log(JSON.stringify({ sdk, ...counts }));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
