"""Sends known numbers of spans, data points and log records with the OpenTelemetry SDK over OTLP/gRPC.

WATERSHED_ENDPOINT names the receiver, WATERSHED_COMPRESSION is "none" or "gzip". Prints as JSON what was sent and
how many exports were not acknowledged; exits with 1 if the SDK could not flush.
"""

import json
import logging
import os
import sys
from importlib.metadata import version

import grpc
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
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

endpoint = os.environ["WATERSHED_ENDPOINT"]
gzip = os.environ.get("WATERSHED_COMPRESSION") == "gzip"
options = {
    "endpoint": endpoint,
    "insecure": True,
    "compression": grpc.Compression.Gzip if gzip else grpc.Compression.NoCompression,
}
counts = {"spans": 0, "points": 0, "logs": 0, "failures": 0}


def counting(exporter_class, key, size):
    """The exporter, counting what it was told "ok" for."""

    class Counting(exporter_class):
        def export(self, batch, *args, **kwargs):
            result = super().export(batch, *args, **kwargs)
            if result.name == "SUCCESS":
                counts[key] += size(batch)
            else:
                counts["failures"] += 1
            return result

    return Counting(**options)


def points(data):
    return sum(
        len(metric.data.data_points)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    )


resource = Resource.create({"service.name": "python-peer", "service.version": "1.2.3"})

tracer_provider = TracerProvider(resource=resource)
tracer_provider.add_span_processor(
    BatchSpanProcessor(counting(OTLPSpanExporter, "spans", len), max_export_batch_size=64)
)
tracer = tracer_provider.get_tracer("watershed.peers", "1")
for number in range(SPANS // 2):
    with tracer.start_as_current_span("order", attributes={"order": number, "gift": number % 2 == 0}) as order:
        order.add_event("checked", {"items": [1, 2, 3]})
        with tracer.start_as_current_span("payment", attributes={"amount": number / 4, "currency": "EUR"}):
            pass

# Collected by hand: so many series, so many times.
reader = PeriodicExportingMetricReader(counting(OTLPMetricExporter, "points", points), export_interval_millis=3_600_000)
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

logger_provider = LoggerProvider(resource=resource)
logger_provider.add_log_record_processor(
    BatchLogRecordProcessor(counting(OTLPLogExporter, "logs", len), max_export_batch_size=64)
)
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
