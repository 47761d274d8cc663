package api

import (
	"context"
	"net/http"
	"sync"
	"time"
)

const (
	// readyTime is how long everything that /readyz looks at has for its answer; probes are configured to wait longer.
	readyTime = 3 * time.Second
	// readyFresh is how long an answer holds: less than any probe's period.
	readyFresh = time.Second
)

// NewHealth makes a handler of /healthz and /readyz alone, for a process that takes no builds in.
func NewHealth(config Config) http.Handler {
	s := &server{Config: config.withDefaults()}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.GetHealth)
	mux.HandleFunc("GET /readyz", s.GetReadiness)
	return s.enclose(mux)
}

// GetHealth tells that the process answers.
func (s *server) GetHealth(w http.ResponseWriter, _ *http.Request) {
	s.json(w, http.StatusOK, jsonType, Health{Status: HealthStatusOk, Version: s.Version})
}

// GetReadiness tells whether builds can be taken in, and what is missing.
func (s *server) GetReadiness(w http.ResponseWriter, r *http.Request) {
	out := s.ready(r.Context())
	s.json(w, code(out), jsonType, out)
}

func code(h Health) int {
	if h.Status != HealthStatusOk {
		return http.StatusServiceUnavailable
	}
	return http.StatusOK
}

// readiness is what was found last. Anybody may ask, so that asking must not cost much.
type readiness struct {
	mu    sync.Mutex
	at    time.Time
	found Health
}

// ready looks at everything, at most once in readyFresh.
func (s *server) ready(ctx context.Context) Health {
	last := &s.readiness
	last.mu.Lock()
	defer last.mu.Unlock()
	if now := s.Now(); last.at.IsZero() || now.Sub(last.at) >= readyFresh {
		last.found, last.at = s.look(ctx), now
	}
	return last.found
}

func (s *server) look(ctx context.Context) Health {
	// Others wait for the answer too, whether this caller stays or not.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyTime)
	defer cancel()
	out := Health{Status: HealthStatusOk, Version: s.Version, Checks: make([]HealthCheck, len(s.Ready))}
	var all sync.WaitGroup
	for i, check := range s.Ready {
		all.Go(func() {
			out.Checks[i] = HealthCheck{Name: check.Name, Ok: true}
			if err := check.Ready(ctx); err != nil {
				out.Checks[i] = HealthCheck{Name: check.Name, Detail: err.Error()}
			}
		})
	}
	all.Wait()
	for _, check := range out.Checks {
		if !check.Ok {
			out.Status = HealthStatusUnavailable
		}
	}
	return out
}

// GetOpenapi gives the document.
func (s *server) GetOpenapi(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", jsonType)
	_, _ = w.Write(s.document)
}
