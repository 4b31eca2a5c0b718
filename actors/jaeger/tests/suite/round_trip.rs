//! OTLP to Jaeger and back: what comes through, and exactly what does not.
