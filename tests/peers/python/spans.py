"""Sends known spans with the exporters of the OpenTelemetry SDK that speak Jaeger's and Zipkin's protocols.

$WATERSHED_PROTOCOL says which; $WATERSHED_ENDPOINT is host:port for Jaeger over gRPC and UDP, a URL for what goes over
HTTP. The spans are those of otlp.py, and so is the answer. What goes over UDP counts as sent once it is.
"""

import importlib
import json
import os
import sys
import warnings
from importlib.metadata import version

# Both exporters are deprecated, and say so.
warnings.simplefilter("ignore")

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind

SPANS = 500

endpoint = os.environ["WATERSHED_ENDPOINT"]
protocol = os.environ["WATERSHED_PROTOCOL"]
host, _, port = endpoint.rpartition(":")
modules = {
    "jaeger/grpc": ("jaeger.proto.grpc.JaegerExporter", lambda: {"collector_endpoint": endpoint, "insecure": True}),
    "jaeger/thrift_http": ("jaeger.thrift.JaegerExporter", lambda: {"collector_endpoint": endpoint}),
    "jaeger/thrift_compact": (
        "jaeger.thrift.JaegerExporter",
        lambda: {"agent_host_name": host, "agent_port": int(port), "udp_split_oversized_batches": True},
    ),
    "zipkin/json": ("zipkin.json.ZipkinExporter", lambda: {"endpoint": endpoint}),
    "zipkin/protobuf": ("zipkin.proto.http.ZipkinExporter", lambda: {"endpoint": endpoint}),
}
if protocol not in modules:
    sys.exit(f"this SDK does not speak {protocol}")
module, arguments = modules[protocol]
module, name = module.rsplit(".", 1)
exporter = getattr(importlib.import_module(f"opentelemetry.exporter.{module}"), name)
counts = {"spans": 0, "points": 0, "logs": 0, "failures": 0}


class Counting(exporter):
    def export(self, spans):
        result = super().export(spans)
        if result.name == "SUCCESS":
            counts["spans"] += len(spans)
        else:
            counts["failures"] += 1
        return result


resource = Resource.create({"service.name": protocol.replace("/", "-"), "service.version": "1.2.3"})
provider = TracerProvider(resource=resource)
provider.add_span_processor(BatchSpanProcessor(Counting(**arguments()), max_export_batch_size=50))
tracer = provider.get_tracer("watershed.peers", "1")
for number in range(SPANS // 2):
    attributes = {"order": number, "gift": number % 2 == 0}
    with tracer.start_as_current_span("order", kind=SpanKind.SERVER, attributes=attributes) as order:
        order.add_event("checked", {"items": 3})
        with tracer.start_as_current_span("payment", attributes={"amount": number / 4, "currency": "EUR"}):
            pass
if not provider.force_flush(60_000):
    sys.exit("spans were not flushed")
provider.shutdown()
print(json.dumps({"sdk": version("opentelemetry-sdk"), **counts}))
