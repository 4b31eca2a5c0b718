import io.opentelemetry.api.common.AttributeKey;
import io.opentelemetry.api.common.Attributes;
import io.opentelemetry.api.logs.Severity;
import io.opentelemetry.api.trace.SpanKind;
import io.opentelemetry.context.Context;
import io.opentelemetry.sdk.autoconfigure.AutoConfiguredOpenTelemetrySdk;
import io.opentelemetry.sdk.common.CompletableResultCode;
import io.opentelemetry.sdk.common.export.MemoryMode;
import io.opentelemetry.sdk.logs.data.LogRecordData;
import io.opentelemetry.sdk.logs.export.LogRecordExporter;
import io.opentelemetry.sdk.metrics.InstrumentType;
import io.opentelemetry.sdk.metrics.data.AggregationTemporality;
import io.opentelemetry.sdk.metrics.data.MetricData;
import io.opentelemetry.sdk.metrics.export.MetricExporter;
import io.opentelemetry.sdk.resources.Resource;
import io.opentelemetry.sdk.trace.data.SpanData;
import io.opentelemetry.sdk.trace.export.SpanExporter;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * Sends known numbers of spans, data points and log records with the OpenTelemetry SDK for Java.
 *
 * <p>Numbers, environment and answer are those of python/otlp.py. Run as a single source file.
 */
class Otlp {
  static final int SPANS = 500, LOGS = 300, SERIES = 40, COLLECTIONS = 5, DEADLINE_SECONDS = 60;

  static final AtomicInteger spans = new AtomicInteger(), points = new AtomicInteger(), logs = new AtomicInteger();
  static final AtomicInteger failures = new AtomicInteger();

  public static void main(String[] args) {
    var sdk = AutoConfiguredOpenTelemetrySdk.builder()
        .addPropertiesSupplier(() -> Map.of(
            "otel.service.name", "java-peer",
            "otel.bsp.max.export.batch.size", "64",
            "otel.blrp.max.export.batch.size", "64",
            // Collected by hand: so many series, so many times.
            "otel.metric.export.interval", "3600000"))
        .addSpanExporterCustomizer((exporter, config) -> new Spans(exporter))
        .addMetricExporterCustomizer((exporter, config) -> new Points(exporter))
        .addLogRecordExporterCustomizer((exporter, config) -> new Logs(exporter))
        .disableShutdownHook()
        .build()
        .getOpenTelemetrySdk();

    var tracer = sdk.getTracer("watershed.peers", "1");
    for (int number = 0; number < SPANS / 2; number++) {
      var order = tracer.spanBuilder("order").setSpanKind(SpanKind.SERVER).setNoParent()
          .setAttribute("order", number).setAttribute("gift", number % 2 == 0).startSpan();
      order.addEvent("checked", Attributes.of(AttributeKey.longArrayKey("items"), List.of(1L, 2L, 3L)));
      tracer.spanBuilder("payment").setParent(Context.root().with(order))
          .setAttribute("amount", number / 4.0).setAttribute("currency", "EUR").startSpan().end();
      order.end();
    }
    flushed("spans", sdk.getSdkTracerProvider().forceFlush());

    var meter = sdk.meterBuilder("watershed.peers").setInstrumentationVersion("1").build();
    var orders = meter.counterBuilder("orders").setUnit("1").build();
    var durations = meter.histogramBuilder("duration").setUnit("ms").build();
    for (int collection = 0; collection < COLLECTIONS; collection++) {
      for (int series = 0; series < SERIES; series++) {
        var attributes = Attributes.of(AttributeKey.longKey("series"), (long) series);
        orders.add(1 + collection, attributes);
        durations.record(series * 1.5, attributes);
      }
      flushed("metrics", sdk.getSdkMeterProvider().forceFlush());
    }
    int made = points.get();

    var logger = sdk.getLogsBridge().loggerBuilder("watershed.peers").setInstrumentationVersion("1").build();
    for (int number = 0; number < LOGS; number++) {
      logger.logRecordBuilder().setSeverity(Severity.WARN).setSeverityText("WARN")
          .setBody("order " + number + ": the payment took long").setAttribute(AttributeKey.longKey("order"), (long) number).emit();
    }
    flushed("logs", sdk.getSdkLoggerProvider().forceFlush());
    sdk.shutdown().join(DEADLINE_SECONDS, TimeUnit.SECONDS);
    // It adds metrics of its own: of the exporters and the queues.
    if (made < 2 * SERIES * COLLECTIONS) throw new IllegalStateException("the SDK made " + made + " data points");
    var version = Resource.getDefault().getAttribute(AttributeKey.stringKey("telemetry.sdk.version"));
    System.out.printf("{\"sdk\": \"%s\", \"spans\": %d, \"points\": %d, \"logs\": %d, \"failures\": %d}%n",
        version, spans.get(), points.get(), logs.get(), failures.get());
  }

  static void flushed(String what, CompletableResultCode flush) {
    if (!flush.join(DEADLINE_SECONDS, TimeUnit.SECONDS).isSuccess()) throw new IllegalStateException(what + " were not flushed");
  }

  /** Adds up an export that was acknowledged, or a failure. */
  static CompletableResultCode counted(CompletableResultCode result, AtomicInteger count, int size) {
    return result.whenComplete(() -> (result.isSuccess() ? count : failures).addAndGet(result.isSuccess() ? size : 1));
  }

  record Spans(SpanExporter inner) implements SpanExporter {
    public CompletableResultCode export(Collection<SpanData> batch) {
      return counted(inner.export(batch), spans, batch.size());
    }
    public CompletableResultCode flush() { return inner.flush(); }
    public CompletableResultCode shutdown() { return inner.shutdown(); }
  }

  record Points(MetricExporter inner) implements MetricExporter {
    public CompletableResultCode export(Collection<MetricData> batch) {
      return counted(inner.export(batch), points, batch.stream().mapToInt(metric -> metric.getData().getPoints().size()).sum());
    }
    public AggregationTemporality getAggregationTemporality(InstrumentType type) {
      return inner.getAggregationTemporality(type);
    }
    // What is reused while it is sent could not be counted afterwards.
    public MemoryMode getMemoryMode() { return MemoryMode.IMMUTABLE_DATA; }
    public CompletableResultCode flush() { return inner.flush(); }
    public CompletableResultCode shutdown() { return inner.shutdown(); }
  }

  record Logs(LogRecordExporter inner) implements LogRecordExporter {
    public CompletableResultCode export(Collection<LogRecordData> batch) {
      return counted(inner.export(batch), logs, batch.size());
    }
    public CompletableResultCode flush() { return inner.flush(); }
    public CompletableResultCode shutdown() { return inner.shutdown(); }
  }
}
