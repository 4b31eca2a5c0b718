"""Sends known numbers of spans with OpenTelemetry's exporters to Jaeger.

To $WATERSHED_ENDPOINT, host:port, in the way of $WATERSHED_PROTOCOL: grpc, thrift_http or thrift_compact (UDP). Prints as
JSON how many spans were exported, and how many exports failed; over UDP nobody knows better.
"""

import json
import os
import sys
from importlib.metadata import version

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

SPANS = 500
DEADLINE = 60_000

endpoint = os.environ["WATERSHED_ENDPOINT"]
protocol = os.environ["WATERSHED_PROTOCOL"]
host, port = endpoint.rsplit(":", 1)
counts = {"spans": 0, "failures": 0}

if protocol == "grpc":
    from opentelemetry.exporter.jaeger.proto.grpc import JaegerExporter

    arguments = {"collector_endpoint": endpoint, "insecure": True}
else:
    from opentelemetry.exporter.jaeger.thrift import JaegerExporter

    arguments = {
        "thrift_http": {"collector_endpoint": f"http://{endpoint}/api/traces"},
        # What is larger than a datagram is cut.
        "thrift_compact": {"agent_host_name": host, "agent_port": int(port), "udp_split_oversized_batches": True},
    }[protocol]


class Counting(JaegerExporter):
    def export(self, spans):
        result = super().export(spans)
        if result.name == "SUCCESS":
            counts["spans"] += len(spans)
        else:
            counts["failures"] += 1
        return result


provider = TracerProvider(resource=Resource.create({"service.name": "jaeger-peer", "service.version": "1.2.3"}))
provider.add_span_processor(BatchSpanProcessor(Counting(**arguments), max_export_batch_size=64))
tracer = provider.get_tracer("watershed.peers", "1")
for number in range(SPANS // 2):
    with tracer.start_as_current_span("order", kind=SpanKind.SERVER, attributes={"order": number}) as order:
        order.add_event("checked", {"items": 3, "fresh": True})
        links = [Link(order.get_span_context())]
        with tracer.start_as_current_span("payment", kind=SpanKind.CLIENT, links=links) as payment:
            payment.set_attributes({"amount": number / 4, "currency": "EUR"})
            if number % 10 == 0:
                payment.set_status(Status(StatusCode.ERROR, "declined"))

if not provider.force_flush(DEADLINE):
    sys.exit("spans were not flushed")
provider.shutdown()
print(json.dumps({"sdk": version("opentelemetry-sdk"), **counts}))
