// Sends numbered spans at a steady rate with the OpenTelemetry SDK for Go as it comes, whatever becomes of the other end.
//
// Numbers, environment and answer are those of python/steady.py.
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

type result struct {
	SDK          string      `json:"sdk"`
	Made         uint64      `json:"made"`
	Acknowledged [][2]uint64 `json:"acknowledged"`
	Failed       int         `json:"failed"`
}

// The SDK exports from one goroutine at a time, and is shut down before this is read.
type counting struct {
	sdktrace.SpanExporter
	acknowledged []uint64
	failed       int
}

func (e *counting) ExportSpans(ctx context.Context, batch []sdktrace.ReadOnlySpan) error {
	err := e.SpanExporter.ExportSpans(ctx, batch)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		e.failed += len(batch)
		return err
	}
	for _, span := range batch {
		id := span.SpanContext().SpanID()
		e.acknowledged = append(e.acknowledged, binary.BigEndian.Uint64(id[:])-1)
	}
	return nil
}

// Every span is the root of its trace.
type numbers struct{ run, number uint64 }

func (n *numbers) NewIDs(context.Context) (id trace.TraceID, span trace.SpanID) {
	binary.BigEndian.PutUint64(id[:8], n.run)
	binary.BigEndian.PutUint64(id[8:], n.number)
	n.number++
	binary.BigEndian.PutUint64(span[:], n.number)
	return id, span
}

func (n *numbers) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	_, span := n.NewIDs(ctx)
	return span
}

func ranges(numbers []uint64) [][2]uint64 {
	slices.Sort(numbers)
	found := [][2]uint64{}
	for _, number := range numbers {
		if last := len(found) - 1; last >= 0 && number <= found[last][1] {
			found[last][1] = number + 1
		} else {
			found = append(found, [2]uint64{number, number + 1})
		}
	}
	return found
}

func number(name string) uint64 {
	value, err := strconv.ParseUint(os.Getenv(name), 10, 64)
	if err != nil {
		panic(err)
	}
	return value
}

func main() {
	ctx := context.Background()
	var to sdktrace.SpanExporter
	var err error
	if os.Getenv("OTEL_EXPORTER_OTLP_PROTOCOL") == "grpc" {
		to, err = otlptracegrpc.New(ctx)
	} else {
		to, err = otlptracehttp.New(ctx)
	}
	if err != nil {
		panic(err)
	}
	exporter := &counting{SpanExporter: to}
	spans, rate := number("WATERSHED_SPANS"), number("WATERSHED_RATE")
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter),
		sdktrace.WithIDGenerator(&numbers{run: number("WATERSHED_RUN")}),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", "go-steady"))))
	tracer := provider.Tracer("watershed.peers")
	begin := time.Now()
	for order := range spans {
		time.Sleep(time.Until(begin.Add(time.Duration(order) * time.Second / time.Duration(rate))))
		_, span := tracer.Start(ctx, "order", trace.WithAttributes(attribute.Int("order", int(order))))
		span.End()
	}
	if err := provider.Shutdown(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	answer := result{sdk.Version(), spans, ranges(exporter.acknowledged), exporter.failed}
	if err := json.NewEncoder(os.Stdout).Encode(answer); err != nil {
		panic(err)
	}
}
