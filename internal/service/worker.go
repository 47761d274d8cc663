package service

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"imagebuilder/internal/egress"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
	"imagebuilder/internal/service/api"
	"imagebuilder/internal/service/queue"
	"imagebuilder/internal/service/seal"
	"imagebuilder/internal/service/telemetry"
	"imagebuilder/plugin"
)

// What the service asks of the plugin.
const (
	imageNode  = "imagebuilder.nodes.Image"
	engineNode = "imagebuilder.nodes.Engine"
	create     = "create"
	doctor     = "doctor"
)

// engineFor is how long the engine's answer to whether it is there is believed, and how long it may take: each look starts a plugin.
const engineFor = 30 * time.Second

// worker makes the part that builds.
func (p *process) worker() (*queue.Worker, error) {
	identities, err := seal.ReadIdentities(p.Identities)
	if err != nil {
		return nil, err
	}
	opener, err := seal.NewOpener(identities...)
	if err != nil {
		return nil, err
	}
	return queue.New(queue.Config{
		Store: p.store, Opener: opener, PluginPath: p.Plugins[0], PluginSettings: p.settings(), Environment: p.Environ,
		Concurrency: p.Concurrency, MaxRunningPerSubject: p.MaxRunning, MaxAttempts: p.MaxAttempts, LogLimit: p.LogLimit,
		DefaultTimeout: p.longest(), Grace: p.Grace, Retention: p.Retention, OnlyProcess: p.folder != nil,
		Egress:   egress.New(true, p.Egress),
		Observer: &telemetry.Builds{Metrics: p.metrics, Tracer: p.tracing.Tracer()},
		Logger:   p.Logger,
	})
}

// noEnd is what no limit comes to for a worker.
const noEnd = 10 * 365 * 24 * time.Hour

// longest is how long a build may run where it says nothing itself.
func (p *process) longest() time.Duration {
	if p.Timeout < 0 {
		return noEnd
	}
	return p.Timeout
}

// settings are those of every request to the plugin.
func (p *process) settings() result.Settings {
	s := p.Settings
	s.Egress = &result.Egress{Refuse: true}
	for _, prefix := range p.Egress {
		s.Egress.Allow = append(s.Egress.Allow, prefix.String())
	}
	return s
}

// perform has the plugin do something without side effects: its secrets stay in its own process, which ends with it.
func (p *process) perform(ctx context.Context, nodeType, operation string, inputs []byte,
	do func(*plugin.Client, plugin.Request) (json.RawMessage, error),
) (json.RawMessage, error) {
	settings, err := json.Marshal(p.settings())
	if err != nil {
		return nil, fault.New(fault.Internal, "encode the settings: %w", err)
	}
	client, err := plugin.FindFor(ctx, p.Plugins, nodeType, operation, plugin.Options{Base: queue.PluginEnvironment(p.Environ)})
	if err != nil {
		return nil, err
	}
	defer client.Close()
	return do(client, plugin.Request{NodeType: nodeType, Operation: operation, Inputs: inputs, Settings: settings, WorkDir: "/"})
}

// plan says what a document would do.
func (p *process) plan(ctx context.Context, doc []byte) (json.RawMessage, error) {
	return p.perform(ctx, imageNode, create, doc, func(c *plugin.Client, r plugin.Request) (json.RawMessage, error) {
		return c.Plan(ctx, r)
	})
}

// checks are what /readyz looks at.
func (p *process) checks() []api.Check {
	checks := []api.Check{{Name: "database", Ready: p.quiet(p.store.Ping)}, {Name: "queue", Ready: p.quiet(p.store.CheckSchema)}}
	if p.Role.builds() {
		e := &engineCheck{process: p}
		checks = append(checks, api.Check{Name: "engine", Ready: e.ready})
	}
	return checks
}

// quiet tells the log why the database does not answer, and everybody else only that it does not: the reason names hosts and users.
func (p *process) quiet(look func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		err := look(ctx)
		if err == nil || fault.KindOf(err) == fault.Invalid { // the schema's version
			return err
		}
		p.Logger.WarnContext(ctx, "the database does not answer", "error", err.Error())
		return fault.New(fault.Unavailable, "the database does not answer")
	}
}

// engineCheck knows whether there is an engine to build with. Looking takes seconds where an engine has to start, and those who ask
// have less: they get what was found last.
type engineCheck struct {
	*process
	mu      sync.Mutex
	looking chan struct{} // closed when the look that runs has ended; nil: none runs
	until   time.Time
	known   bool
	err     error
}

func (e *engineCheck) ready(ctx context.Context) error {
	e.mu.Lock()
	if e.looking == nil && e.Now().After(e.until) {
		e.looking = make(chan struct{})
		go e.refresh(context.WithoutCancel(ctx), e.looking)
	}
	looking, known := e.looking, e.known
	e.mu.Unlock()
	if looking != nil && !known {
		select {
		case <-looking:
		case <-ctx.Done():
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.known {
		return fault.New(fault.Unavailable, "the engine is still being looked at")
	}
	return e.err
}

// refresh looks once.
func (e *engineCheck) refresh(ctx context.Context, done chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, engineFor)
	defer cancel()
	err := e.look(ctx)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.err, e.known, e.until, e.looking = err, true, e.Now().Add(engineFor), nil
	close(done)
}

// look asks the plugin's doctor.
func (e *engineCheck) look(ctx context.Context) error {
	raw, err := e.perform(ctx, engineNode, doctor, []byte(`{}`), func(c *plugin.Client, r plugin.Request) (json.RawMessage, error) {
		return c.Execute(ctx, r, func(plugin.Event) {})
	})
	if err != nil {
		return fault.New(fault.Unavailable, "the engine cannot be looked at")
	}
	var report result.Doctor
	if err := json.Unmarshal(raw, &report); err != nil {
		return fault.New(fault.Internal, "read the engine's report: %w", err)
	}
	for _, engine := range report.Engines {
		if engine.Available && (e.Settings.Engine == "" || e.Settings.Engine == "auto" || e.Settings.Engine == engine.Name) {
			return nil
		}
	}
	return fault.New(fault.Unavailable, "no engine is available")
}
