"""otlp.py over gRPC, for a caller that does not go through tests/peers/start."""

import os
import runpy

os.environ["OTEL_EXPORTER_OTLP_PROTOCOL"] = "grpc"
os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = os.environ["WATERSHED_ENDPOINT"]
if os.environ.get("WATERSHED_COMPRESSION") == "gzip":
    os.environ["OTEL_EXPORTER_OTLP_COMPRESSION"] = "gzip"
runpy.run_path(os.path.join(os.path.dirname(__file__), "otlp.py"))
