// Jaeger 2.13, which its module calls v1.76.0: the same commit carries both numbers. A replacement counts only in the
// main module, so it is said again here.
module example.invalid/jaeger

go 1.25.0

tool github.com/jaegertracing/jaeger/cmd/jaeger

require github.com/jaegertracing/jaeger v1.76.0

replace github.com/Shopify/sarama => github.com/Shopify/sarama v1.33.0
