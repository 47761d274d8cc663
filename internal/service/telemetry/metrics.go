package telemetry

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"imagebuilder/internal/service/store"
)

// Counter counts invocations; *store.Store is one.
type Counter interface {
	Stats(ctx context.Context) (store.Stats, error)
}

const (
	namespace = "imagebuilder"
	// statsFor is how long one look at the queue serves: several Prometheus servers may scrape each replica.
	statsFor = 2 * time.Second
	// statsWithin bounds that look: a scrape has ten seconds by default.
	statsWithin = 5 * time.Second
)

// Metrics are the service's metrics. Their names and meanings stand in docs/service.md.
type Metrics struct {
	registry *prometheus.Registry

	ended        *prometheus.CounterVec
	phases       *prometheus.HistogramVec
	waited       prometheus.Histogram
	running      prometheus.Gauge
	lost         prometheus.Counter
	webhooks     *prometheus.CounterVec
	reaped       *prometheus.CounterVec
	requests     *prometheus.CounterVec
	requestTimes *prometheus.HistogramVec
}

// NewMetrics makes metrics of their own registry. queue, if not nil, is asked for the queue's length and age at each scrape.
func NewMetrics(version string, queue Counter, now func() time.Time) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help})
	}
	// Builds take from a tenth of a second, where nothing has changed, to hours.
	buildBuckets := prometheus.ExponentialBuckets(0.1, 2.5, 12)
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: "builds_total",
			Help: "Builds that ended on this worker, by state and machine-readable reason."}, []string{"state", "reason"}),
		phases: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Name: "build_phase_seconds",
			Help: "Wall time of the phases fetch, build, push and total of successful builds.", Buckets: buildBuckets}, []string{"phase"}),
		waited: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: namespace, Name: "build_wait_seconds",
			Help: "Time from submission to the first start.", Buckets: prometheus.ExponentialBuckets(0.01, 3, 12)}),
		running: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: "builds_running",
			Help: "Builds that run on this worker."}),
		lost: counter("leases_lost_total", "Builds that this worker stopped because it could not keep its lease."),
		webhooks: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: "webhook_deliveries_total",
			Help: "Tries to deliver a webhook, by outcome: delivered or refused."}, []string{"outcome"}),
		reaped: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: "reaped_total",
			Help: "Builds taken from workers that are gone (requeued, lost, cancelled) or out of the queue (expired)."}, []string{"what"}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: "http_requests_total",
			Help: "HTTP requests, by method, route and status."}, []string{"method", "route", "status"}),
		requestTimes: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Name: "http_request_seconds",
			Help: "Time until an HTTP answer was complete; streams count until their end.", Buckets: prometheus.ExponentialBuckets(0.001, 3, 12)},
			[]string{"method", "route"}),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: "info", Help: "1, with the version.",
		ConstLabels: prometheus.Labels{"version": version}})
	info.Set(1)
	m.registry.MustRegister(m.ended, m.phases, m.waited, m.running, m.lost, m.webhooks, m.reaped, m.requests, m.requestTimes, info,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if queue != nil {
		m.registry.MustRegister(&queueCollector{queue: queue, now: now})
	}
	return m
}

// Handler answers scrapes.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}

// ObserveHTTP counts one answer. route is the pattern, not the path, so that ids make no series of their own.
func (m *Metrics) ObserveHTTP(method, route string, status int, took time.Duration) {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
	default:
		method = "other" // strangers make methods up, and each would be a series for ever
	}
	m.requests.WithLabelValues(method, route, strconv.Itoa(status)).Inc()
	m.requestTimes.WithLabelValues(method, route).Observe(took.Seconds())
}

var (
	queueLength = prometheus.NewDesc(namespace+"_queue_length", "Builds that wait (pending) and that run (in_progress), over all replicas.", []string{"state"}, nil)
	queueAge    = prometheus.NewDesc(namespace+"_queue_oldest_seconds", "How long the oldest build that may start has waited.", nil, nil)
	queueUp     = prometheus.NewDesc(namespace+"_queue_up", "Whether the database told the length of the queue.", nil, nil)
)

// queueCollector looks at the queue when it is asked.
type queueCollector struct {
	queue Counter
	now   func() time.Time

	mu    sync.Mutex
	until time.Time
	stats store.Stats
	err   error
}

// Describe implements prometheus.Collector.
func (q *queueCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- queueLength
	ch <- queueAge
	ch <- queueUp
}

// Collect implements prometheus.Collector.
func (q *queueCollector) Collect(ch chan<- prometheus.Metric) {
	stats, err := q.look()
	if err != nil {
		ch <- prometheus.MustNewConstMetric(queueUp, prometheus.GaugeValue, 0)
		return
	}
	ch <- prometheus.MustNewConstMetric(queueUp, prometheus.GaugeValue, 1)
	ch <- prometheus.MustNewConstMetric(queueAge, prometheus.GaugeValue, stats.OldestPending.Seconds())
	for state, count := range map[store.State]int64{store.StatePending: stats.Pending, store.StateInProgress: stats.Running} {
		ch <- prometheus.MustNewConstMetric(queueLength, prometheus.GaugeValue, float64(count), string(state))
	}
}

func (q *queueCollector) look() (store.Stats, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if now := q.now(); now.After(q.until) {
		ctx, cancel := context.WithTimeout(context.Background(), statsWithin)
		defer cancel()
		q.stats, q.err = q.queue.Stats(ctx)
		q.until = now.Add(statsFor)
	}
	return q.stats, q.err
}
