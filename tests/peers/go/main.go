// Sends known numbers of spans, data points and log records with the OpenTelemetry SDK for Go.
//
// Numbers, environment and answer are those of python/otlp.py.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploggrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploghttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/log"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/sdk"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

const (
	spans       = 500
	logs        = 300
	series      = 40
	collections = 5
	deadline    = time.Minute
)

// What was acknowledged. The SDK exports each signal from one goroutine at a time, and is flushed before this is read.
type counts struct {
	SDK      string `json:"sdk"`
	Spans    int    `json:"spans"`
	Points   int    `json:"points"`
	Logs     int    `json:"logs"`
	Failures int    `json:"failures"`
}

// Adds up an export that was acknowledged, or a failure.
func (c *counts) took(err error, count *int, size int) error {
	if err != nil {
		c.Failures++
		fmt.Fprintln(os.Stderr, err)
	} else {
		*count += size
	}
	return err
}

type countingSpans struct {
	sdktrace.SpanExporter
	*counts
}

func (e countingSpans) ExportSpans(ctx context.Context, batch []sdktrace.ReadOnlySpan) error {
	return e.took(e.SpanExporter.ExportSpans(ctx, batch), &e.Spans, len(batch))
}

type countingPoints struct {
	sdkmetric.Exporter
	*counts
}

func (e countingPoints) Export(ctx context.Context, data *metricdata.ResourceMetrics) error {
	size := 0
	for _, scope := range data.ScopeMetrics {
		for _, metric := range scope.Metrics {
			switch data := metric.Data.(type) {
			case metricdata.Sum[int64]:
				size += len(data.DataPoints)
			case metricdata.Histogram[float64]:
				size += len(data.DataPoints)
			}
		}
	}
	return e.took(e.Exporter.Export(ctx, data), &e.Points, size)
}

type countingLogs struct {
	sdklog.Exporter
	*counts
}

func (e countingLogs) Export(ctx context.Context, batch []sdklog.Record) error {
	return e.took(e.Exporter.Export(ctx, batch), &e.Logs, len(batch))
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	toSpans, toPoints, toLogs, err := exporters(ctx)
	if err != nil {
		return err
	}
	sent := &counts{SDK: sdk.Version()}
	resource := resource.NewSchemaless(
		attribute.String("service.name", "go-peer"), attribute.String("service.version", "1.2.3"))

	tracers := sdktrace.NewTracerProvider(sdktrace.WithResource(resource),
		sdktrace.WithBatcher(countingSpans{toSpans, sent}, sdktrace.WithMaxExportBatchSize(64)))
	tracer := tracers.Tracer("watershed.peers", trace.WithInstrumentationVersion("1"))
	for number := range spans / 2 {
		inside, order := tracer.Start(ctx, "order", trace.WithSpanKind(trace.SpanKindServer),
			trace.WithAttributes(attribute.Int("order", number), attribute.Bool("gift", number%2 == 0)))
		order.AddEvent("checked", trace.WithAttributes(attribute.IntSlice("items", []int{1, 2, 3})))
		_, payment := tracer.Start(inside, "payment", trace.WithAttributes(
			attribute.Float64("amount", float64(number)/4), attribute.String("currency", "EUR")))
		payment.End()
		order.End()
	}
	if err := tracers.ForceFlush(ctx); err != nil {
		return err
	}

	// Collected by hand: so many series, so many times.
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithResource(resource), sdkmetric.WithReader(
		sdkmetric.NewPeriodicReader(countingPoints{toPoints, sent}, sdkmetric.WithInterval(time.Hour))))
	meter := meters.Meter("watershed.peers", metric.WithInstrumentationVersion("1"))
	orders, err := meter.Int64Counter("orders", metric.WithUnit("1"))
	if err != nil {
		return err
	}
	durations, err := meter.Float64Histogram("duration", metric.WithUnit("ms"))
	if err != nil {
		return err
	}
	for collection := range collections {
		for number := range series {
			set := metric.WithAttributes(attribute.Int("series", number))
			orders.Add(ctx, int64(1+collection), set)
			durations.Record(ctx, float64(number)*1.5, set)
		}
		if err := meters.ForceFlush(ctx); err != nil {
			return err
		}
	}
	points := sent.Points

	loggers := sdklog.NewLoggerProvider(sdklog.WithResource(resource), sdklog.WithProcessor(
		sdklog.NewBatchProcessor(countingLogs{toLogs, sent}, sdklog.WithExportMaxBatchSize(64))))
	logger := loggers.Logger("watershed.peers", log.WithInstrumentationVersion("1"))
	for number := range logs {
		var record log.Record
		record.SetTimestamp(time.Now())
		record.SetSeverity(log.SeverityWarn)
		record.SetSeverityText("WARN")
		record.SetBody(attribute.StringValue(fmt.Sprintf("order %d: the payment took long", number)))
		record.AddAttributes(attribute.Int("order", number))
		logger.Emit(ctx, record)
	}
	for _, shutdown := range []func(context.Context) error{loggers.Shutdown, tracers.Shutdown, meters.Shutdown} {
		if err := shutdown(ctx); err != nil {
			return err
		}
	}
	if points != 2*series*collections {
		return fmt.Errorf("the SDK made %d data points and not %d", points, 2*series*collections)
	}
	return json.NewEncoder(os.Stdout).Encode(sent)
}

// The exporters of the asked protocol. Endpoint, compression and certificates they take from the environment.
func exporters(ctx context.Context) (sdktrace.SpanExporter, sdkmetric.Exporter, sdklog.Exporter, error) {
	switch protocol := os.Getenv("OTEL_EXPORTER_OTLP_PROTOCOL"); protocol {
	case "grpc":
		spans, spansErr := otlptracegrpc.New(ctx)
		points, pointsErr := otlpmetricgrpc.New(ctx)
		logs, logsErr := otlploggrpc.New(ctx)
		return spans, points, logs, errors.Join(spansErr, pointsErr, logsErr)
	case "http/protobuf":
		spans, spansErr := otlptracehttp.New(ctx)
		points, pointsErr := otlpmetrichttp.New(ctx)
		logs, logsErr := otlploghttp.New(ctx)
		return spans, points, logs, errors.Join(spansErr, pointsErr, logsErr)
	default:
		return nil, nil, nil, fmt.Errorf("this SDK does not speak %s", protocol)
	}
}
