"""Sends known numbers of spans, data points and log records with the OpenTelemetry SDK.

Where to and how is in the variables that the OpenTelemetry specification names, OTEL_EXPORTER_OTLP_*, which the SDK
reads by itself; tests/peers/start sets them. Prints as JSON what was acknowledged and how many exports were not; exits
with 1 if the SDK could not flush.
"""

import importlib
import json
import logging
import os
import sys
from importlib.metadata import version

from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

SPANS = 500
LOGS = 300
SERIES = 40
COLLECTIONS = 5
DEADLINE = 60_000

protocol = os.environ["OTEL_EXPORTER_OTLP_PROTOCOL"]
counts = {"spans": 0, "points": 0, "logs": 0, "failures": 0}


def counting(module, name, key, size):
    """The exporter, counting what it was told "ok" for."""
    packages = {"grpc": "grpc", "http/protobuf": "http"}
    if protocol not in packages:
        sys.exit(f"this SDK does not speak {protocol}")
    module = importlib.import_module(f"opentelemetry.exporter.otlp.proto.{packages[protocol]}.{module}")

    class Counting(getattr(module, name)):
        def export(self, batch, *args, **kwargs):
            result = super().export(batch, *args, **kwargs)
            if result.name == "SUCCESS":
                counts[key] += size(batch)
            else:
                counts["failures"] += 1
            return result

    return Counting()


def points(data):
    return sum(
        len(metric.data.data_points)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    )


resource = Resource.create({"service.name": "python-peer", "service.version": "1.2.3"})

span_exporter = counting("trace_exporter", "OTLPSpanExporter", "spans", len)
tracer_provider = TracerProvider(resource=resource)
tracer_provider.add_span_processor(BatchSpanProcessor(span_exporter, max_export_batch_size=64))
tracer = tracer_provider.get_tracer("watershed.peers", "1")
for number in range(SPANS // 2):
    with tracer.start_as_current_span("order", attributes={"order": number, "gift": number % 2 == 0}) as order:
        order.add_event("checked", {"items": [1, 2, 3]})
        with tracer.start_as_current_span("payment", attributes={"amount": number / 4, "currency": "EUR"}):
            pass

# Collected by hand: so many series, so many times.
metric_exporter = counting("metric_exporter", "OTLPMetricExporter", "points", points)
reader = PeriodicExportingMetricReader(metric_exporter, export_interval_millis=3_600_000)
meter_provider = MeterProvider(resource=resource, metric_readers=[reader])
meter = meter_provider.get_meter("watershed.peers", "1")
orders = meter.create_counter("orders", unit="1")
durations = meter.create_histogram("duration", unit="ms")
for collection in range(COLLECTIONS):
    for series in range(SERIES):
        orders.add(1 + collection, {"series": series})
        durations.record(series * 1.5, {"series": series})
    if not meter_provider.force_flush(DEADLINE):
        sys.exit("metrics were not flushed")

log_exporter = counting("_log_exporter", "OTLPLogExporter", "logs", len)
logger_provider = LoggerProvider(resource=resource)
logger_provider.add_log_record_processor(BatchLogRecordProcessor(log_exporter, max_export_batch_size=64))
logger = logging.getLogger("watershed.peers")
logger.setLevel(logging.INFO)
logger.propagate = False
logger.addHandler(LoggingHandler(logger_provider=logger_provider))
for number in range(LOGS):
    logger.warning("order %d: the payment took long", number, extra={"order": number})

for name, provider in [("spans", tracer_provider), ("logs", logger_provider)]:
    if not provider.force_flush(DEADLINE):
        sys.exit(f"{name} were not flushed")
before = dict(counts)
for provider in [tracer_provider, logger_provider, meter_provider]:
    provider.shutdown()
if before["points"] != 2 * SERIES * COLLECTIONS:
    sys.exit(f"the SDK made {before['points']} data points and not {2 * SERIES * COLLECTIONS}")

print(json.dumps({"sdk": version("opentelemetry-sdk"), **counts}))
