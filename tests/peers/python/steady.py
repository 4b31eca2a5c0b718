"""Sends numbered spans at a steady rate with the OpenTelemetry SDK as it comes, whatever becomes of the other end.

Its numbers are the test kit's: the ids of a span are the run, the number, and the number + 1. Prints as JSON how many it
has made, which of them were acknowledged, as ranges, and how many the SDK gave up after it had tried to send them. What
is in neither, the SDK dropped because its queue was full. Variables: docs/testing.md.
"""

import importlib
import itertools
import json
import os
import time
from importlib.metadata import version

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator

RUN = int(os.environ["WATERSHED_RUN"])
SPANS = int(os.environ["WATERSHED_SPANS"])
RATE = int(os.environ["WATERSHED_RATE"])

package = {"grpc": "grpc", "http/protobuf": "http"}[os.environ["OTEL_EXPORTER_OTLP_PROTOCOL"]]
module = importlib.import_module(f"opentelemetry.exporter.otlp.proto.{package}.trace_exporter")
acknowledged, failed = [], 0


class Counting(module.OTLPSpanExporter):
    def export(self, batch, *args, **kwargs):
        global failed
        result = super().export(batch, *args, **kwargs)
        if result.name == "SUCCESS":
            acknowledged.extend(span.context.span_id - 1 for span in batch)
        else:
            failed += len(batch)
        return result


class Numbers(IdGenerator):
    """The spans are made by one thread, each in a trace of its own: first the one id, then the other."""

    number = 0

    def generate_trace_id(self):
        return RUN << 64 | self.number

    def generate_span_id(self):
        self.number += 1
        return self.number


def ranges(numbers):
    for _, run in itertools.groupby(enumerate(sorted(set(numbers))), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in run]
        yield [run[0], run[-1] + 1]


provider = TracerProvider(resource=Resource.create({"service.name": "python-steady"}), id_generator=Numbers())
# What gRPC is to call the other end, where the endpoint is no name for it.
authority = os.environ.get("WATERSHED_AUTHORITY")
options = {"channel_options": (("grpc.default_authority", authority),)} if authority else {}
provider.add_span_processor(BatchSpanProcessor(Counting(**options)))
tracer = provider.get_tracer("watershed.peers")
begin = time.monotonic()
for number in range(SPANS):
    time.sleep(max(0, begin + number / RATE - time.monotonic()))
    tracer.start_span("order", attributes={"order": number}).end()
provider.shutdown()
print(
    json.dumps(
        {"sdk": version("opentelemetry-sdk"), "made": SPANS, "acknowledged": [*ranges(acknowledged)], "failed": failed}
    )
)
