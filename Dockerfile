# Build:  docker build -t watershed .
# Run:    docker run --rm -p 4317:4317 watershed
# The image listens on all of its interfaces; publish only the ports that are meant to be reached.

# Both stages stand on the same Debian: a binary runs on the C library it was linked to, or a later one.
FROM rust:1-slim-trixie AS build
WORKDIR /src
COPY . .
# The demo needs the OpenTelemetry SDK; a collector does not.
RUN cargo build --release --locked -p watershed --no-default-features --features cli,mimalloc \
    && cp target/release/watershed /watershed

FROM debian:trixie-slim
RUN useradd --system --uid 10001 --user-group --no-create-home watershed
COPY --from=build /watershed /watershed
COPY deploy/docker/pipelines.toml /etc/watershed/pipelines.toml
USER 10001:10001
# OTLP gRPC; metrics; health.
EXPOSE 4317 4318 8888 13133
# SIGTERM drains; give it `service.shutdown_timeout` (docker stop --time 40).
STOPSIGNAL SIGTERM
ENTRYPOINT ["/watershed"]
CMD ["run", "--config", "/etc/watershed/pipelines.toml"]
