package service

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/seal"
	"imagebuilder/internal/service/store"
	"imagebuilder/internal/service/telemetry"
)

const (
	// connectFor is how long the database is waited for at the start: it may start side by side with us.
	connectFor   = time.Minute
	connectPause = time.Second
)

// process is one process of the service while it runs.
type process struct {
	Config
	folder  *dataFolder // nil with PostgreSQL
	store   *store.Store
	metrics *telemetry.Metrics
	tracing *telemetry.Tracing
	key     string // generated and not printed yet
}

// Run runs the service until ctx ends, and then ends it in order. Errors are of kind Invalid for what the operator has to
// change, and Unavailable for what may be there later.
func Run(ctx context.Context, config Config) (err error) {
	p := &process{Config: config.withDefaults()}
	if err := p.validate(); err != nil {
		return err
	}
	listener, err := listen(p.Listen, "--listen")
	if err != nil {
		return err
	}
	defer listener.Close()
	if p.tracing, err = telemetry.NewTracing(ctx, p.Version, p.LookupEnv); err != nil {
		return err
	}
	defer func() {
		if err := p.tracing.Close(); err != nil {
			p.Logger.Warn("the last spans could not be sent", "error", err.Error())
		}
	}()
	if err := p.keys(); err != nil {
		return err
	}
	if p.folder != nil {
		defer p.folder.close()
	}
	defer p.forgetKey()
	if err := p.openStore(ctx); err != nil {
		return err
	}
	defer p.store.Close()
	p.metrics = telemetry.NewMetrics(p.Version, p.store, p.Now)
	return p.run(ctx, listener)
}

// run runs the parts side by side: the first that fails ends the others.
func (p *process) run(ctx context.Context, listener net.Listener) error {
	group, ctx := errgroup.WithContext(ctx)
	// Requests are answered, and logs can be followed, until the builds have ended or been handed back.
	serving, endServing := context.WithCancel(context.WithoutCancel(ctx))
	defer endServing()
	handler, hub, err := p.handler(ctx, p.checks())
	if err != nil {
		return err
	}
	builds := func() error {
		<-ctx.Done()
		return nil
	}
	if p.Role.builds() {
		worker, err := p.worker()
		if err != nil {
			return err
		}
		builds = func() error {
			err := worker.Run(ctx)
			if ctx.Err() != nil && fault.KindOf(err) == fault.Cancelled {
				return nil // asked to end while it began
			}
			return err
		}
	}
	if err := p.serve(serving, group, listener, handler); err != nil {
		return err
	}
	group.Go(func() error {
		defer endServing()
		return builds()
	})
	if hub != nil {
		group.Go(func() error {
			if err := hub.Run(serving); serving.Err() == nil {
				return err
			}
			return nil
		})
	}
	p.Logger.Info("the service is up", "role", string(p.Role), "address", listener.Addr().String(), "version", p.Version)
	p.announce(listener.Addr().String())
	if err = group.Wait(); err != nil {
		p.Logger.Error("the service ends", "error", err.Error())
		return err
	}
	p.Logger.Info("the service has ended")
	return nil
}

// announce tells people what they need, once.
func (p *process) announce(address string) {
	if p.key != "" {
		fmt.Fprintf(p.Out, "API key (shown only now): %s\n", p.key)
		p.key = ""
	}
	if p.Ready != nil {
		p.Ready(address)
	}
}

func listen(address, flag string) (net.Listener, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fault.New(fault.Invalid, "%s %s: %w", flag, address, err)
	}
	return listener, nil
}

// keys finds or makes what the data folder keeps.
func (p *process) keys() (err error) {
	if p.Postgres != nil {
		return nil
	}
	if p.folder, err = openDataFolder(p.DataDir); err != nil {
		return err
	}
	if p.Identities == "" {
		if p.Identities, err = p.folder.identities(); err != nil {
			return err
		}
	}
	if p.Auth.APIKey == "" && p.Auth.APIKeysFile == "" && p.Auth.Introspection == nil && p.Auth.JWT == nil {
		p.Auth.APIKeysFile, p.key, err = p.folder.apiKeys()
	}
	return err
}

// forgetKey removes a key that nobody has seen: the next start makes another.
func (p *process) forgetKey() {
	if p.key != "" {
		_ = os.Remove(p.Auth.APIKeysFile)
	}
}

// sealer seals to the workers: to the newest identity, where nothing else is said.
func (p *process) sealer() (*seal.Sealer, error) {
	if len(p.SealTo) > 0 {
		return seal.NewSealer(p.SealTo...)
	}
	identities, err := seal.ReadIdentities(p.Identities)
	if err != nil {
		return nil, err
	}
	recipient, err := seal.Recipient(identities[0])
	if err != nil {
		return nil, err
	}
	return seal.NewSealer(recipient)
}

// openStore connects to the database, and brings or holds its schema to this program's.
func (p *process) openStore(ctx context.Context) error {
	config := store.Config{Postgres: p.Postgres, Logger: p.Logger}
	if p.folder != nil {
		config.SQLite = p.folder.file(databaseFile)
	}
	var err error
	for deadline := p.Now().Add(connectFor); ; {
		if p.store, err = store.Open(ctx, config); err == nil {
			break
		}
		if fault.KindOf(err) != fault.Unavailable || p.Now().After(deadline) {
			return err
		}
		p.Logger.Warn("the database does not answer; trying again", "error", err.Error())
		select {
		case <-ctx.Done():
			return fault.New(fault.Cancelled, "cancelled while waiting for the database")
		case <-time.After(connectPause):
		}
	}
	if p.folder != nil || p.Migrate {
		err = p.store.Migrate(ctx)
	} else {
		err = p.store.CheckSchema(ctx)
	}
	if err != nil {
		p.store.Close()
	}
	return err
}
