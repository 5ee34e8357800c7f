package metrics

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"virtgate/libvirtrpc"
)

const (
	// defaultTimeout is Prometheus' own scrape_timeout.
	defaultTimeout = 10 * time.Second
	maxTimeout     = 30 * time.Second
	// margin is how much earlier than its scraper a scrape gives up.
	margin = 500 * time.Millisecond
)

// Handler answers scrapes: the figures of the server, and what libvirt says
// within the time that the scraper has.
func (m *Metrics) Handler(c *libvirtrpc.Client) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		budget := budget(r)
		ctx, cancel := context.WithTimeout(r.Context(), budget+margin/2)
		defer cancel()
		stats, err := c.Stats(ctx, budget)
		if err != nil {
			stats = nil
		}
		scrape := prometheus.NewRegistry()
		scrape.MustRegister(host{stats})
		// A figure that cannot be had must not hide the others. The server
		// compresses by itself.
		promhttp.HandlerFor(prometheus.Gatherers{m.registry, scrape}, promhttp.HandlerOpts{
			ErrorHandling: promhttp.ContinueOnError, DisableCompression: true,
		}).ServeHTTP(w, r)
	})
}

// budget is the time for asking libvirt: what the scraper says that it waits
// for, less a margin. It is rounded, because scrapes with equal budgets share
// what they find.
func budget(r *http.Request) time.Duration {
	timeout := defaultTimeout
	if s, err := strconv.ParseFloat(r.Header.Get("X-Prometheus-Scrape-Timeout-Seconds"), 64); err == nil && s > 0 {
		timeout = time.Duration(min(s, maxTimeout.Seconds()) * float64(time.Second))
	}
	if deadline, ok := r.Context().Deadline(); ok {
		timeout = min(timeout, time.Until(deadline))
	}
	timeout -= min(margin, timeout/2)
	return max(timeout.Truncate(100*time.Millisecond), 100*time.Millisecond)
}
