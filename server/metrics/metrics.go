// Package metrics is everything that knows Prometheus: the figures of the
// server itself, and those of libvirt's domains and storage pools under the
// names that existing boards use (those of inovex/prometheus-libvirt-exporter).
package metrics

import (
	"context"
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"virtgate/libvirtrpc"
)

// Metrics are the figures of one server.
type Metrics struct {
	registry *prometheus.Registry
	requests *prometheus.HistogramVec
	calls    *prometheus.HistogramVec
	wait     prometheus.Histogram
	unsent   *prometheus.CounterVec
}

// New makes the figures of a server; version is what build_info says.
func New(version string) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		// Name, labels and buckets are those of OpenTelemetry's semantic
		// conventions (http.server.request.duration).
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "http_server_request_duration_seconds",
			Help:    "Duration of HTTP requests, by route; requests that no route took have none.",
			Buckets: []float64{.005, .01, .025, .05, .075, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10},
		}, []string{"http_request_method", "http_route", "http_response_status_code"}),
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "virtgate_libvirt_call_duration_seconds",
			Help:    "Duration of libvirt calls from sending to the answer, or to the deadline.",
			Buckets: []float64{.0001, .0005, .001, .005, .01, .05, .1, .5, 1, 5, 10},
		}, []string{"procedure", "outcome"}),
		wait: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "virtgate_libvirt_call_wait_seconds",
			Help:    "Time that libvirt calls waited for their turn.",
			Buckets: []float64{.0001, .001, .01, .1, 1, 5, 10},
		}),
		unsent: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "virtgate_libvirt_calls_unsent_total",
			Help: "Libvirt calls that never got their turn.",
		}, []string{"procedure", "outcome"}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "virtgate_build_info", Help: "1; the labels say which virtgate this is.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	})
	build.Set(1)
	m.registry.MustRegister(m.requests, m.calls, m.wait, m.unsent, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Watch adds the state of the client's connections and queue.
func (m *Metrics) Watch(c *libvirtrpc.Client) { m.registry.MustRegister(state{c.State}) }

// Call takes a libvirt call that is over: it is libvirtrpc's Options.Observe.
func (m *Metrics) Call(_ context.Context, c libvirtrpc.Call) {
	if c.Sent.IsZero() {
		m.unsent.WithLabelValues(c.Procedure, c.Outcome).Inc()
		return
	}
	m.wait.Observe(c.Sent.Sub(c.Start).Seconds())
	m.calls.WithLabelValues(c.Procedure, c.Outcome).Observe(c.End.Sub(c.Sent).Seconds())
}

// Request takes an HTTP request that was answered. method is one that HTTP knows,
// and route the route's path in the table, or empty: what clients make up would
// be labels without end.
func (m *Metrics) Request(method, route string, status int, took time.Duration) {
	m.requests.WithLabelValues(method, route, strconv.Itoa(status)).Observe(took.Seconds())
}

// state collects what a client says of itself, all of one moment.
type state struct {
	of func() libvirtrpc.PoolState
}

type stateFigure struct {
	*prometheus.Desc
	kind  prometheus.ValueType
	value func(libvirtrpc.PoolState) int
}

var stateFigures = []stateFigure{
	stateOf("connections_wanted", "Connections to libvirt that are wanted.", prometheus.GaugeValue, func(s libvirtrpc.PoolState) int { return s.Wanted }),
	stateOf("connections_open", "Connections to libvirt that are open.", prometheus.GaugeValue, func(s libvirtrpc.PoolState) int { return s.Open }),
	stateOf("connections_opened_total", "Connections to libvirt that were opened; those beyond the wanted ones replaced another.", prometheus.CounterValue, func(s libvirtrpc.PoolState) int { return s.Opened }),
	stateOf("calls_in_flight", "Libvirt calls that were sent and are not answered, on open connections.", prometheus.GaugeValue, func(s libvirtrpc.PoolState) int { return s.InFlight }),
	stateOf("calls_overdue", "Libvirt calls past their deadline that are not answered yet.", prometheus.GaugeValue, func(s libvirtrpc.PoolState) int { return s.Abandoned }),
	stateOf("calls_abandoned_total", "Libvirt calls that were not answered before their deadline.", prometheus.CounterValue, func(s libvirtrpc.PoolState) int { return s.AbandonedEver }),
	stateOf("queue_length", "Libvirt calls that wait for a place on a connection.", prometheus.GaugeValue, func(s libvirtrpc.PoolState) int { return s.Waiting }),
	stateOf("queue_limit", "Libvirt calls that may wait for a place on a connection.", prometheus.GaugeValue, func(s libvirtrpc.PoolState) int { return s.Queue }),
	stateOf("monitor_calls", "Libvirt calls that may be waiting for a QEMU monitor.", prometheus.GaugeValue, func(s libvirtrpc.PoolState) int { return s.GateCalls }),
	stateOf("monitor_calls_limit", "How many of these there may be.", prometheus.GaugeValue, func(s libvirtrpc.PoolState) int { return s.GateLimit }),
	stateOf("circuits_open", "Domains that are left alone because their QEMU does not answer.", prometheus.GaugeValue, func(s libvirtrpc.PoolState) int { return s.Circuits }),
}

func stateOf(name, help string, kind prometheus.ValueType, value func(libvirtrpc.PoolState) int) stateFigure {
	return stateFigure{prometheus.NewDesc("virtgate_libvirt_"+name, help, nil, nil), kind, value}
}

func (s state) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range stateFigures {
		ch <- f.Desc
	}
}

func (s state) Collect(ch chan<- prometheus.Metric) {
	now := s.of()
	for _, f := range stateFigures {
		ch <- prometheus.MustNewConstMetric(f.Desc, f.kind, float64(f.value(now)))
	}
}
