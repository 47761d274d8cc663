package lifecycle

import (
	"context"
	"sync"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"imagebuilder/internal/engine"
)

// opening is an engine on its way: it starts while the source is fetched, and a request that turns out to have
// nothing to build does not wait for it.
type opening struct {
	wanted string // the engine's name as far as it is known before it is open
	alone  bool   // there are no nodes beside it
	asked  bool   // somebody has waited for it
	// expected is what stages on $BUILDPLATFORM are taken to run on where there are nodes: see expectedPlatform.
	expected func() (func(target ocispecs.Platform) ocispecs.Platform, error)
	cancel   context.CancelFunc
	opened   func() (engine.Engine, error)
}

func (j *job) startEngine(ctx context.Context) *opening {
	ctx, cancel := context.WithCancel(ctx)
	o := &opening{wanted: engineName(j.settings), alone: len(j.settings.Nodes) == 0, expected: j.expectedPlatform, cancel: cancel}
	type opened struct {
		engine engine.Engine
		err    error
	}
	done := make(chan opened, 1)
	go func() {
		eng, err := j.openEngines(ctx)
		done <- opened{eng, err}
	}()
	o.opened = sync.OnceValues(func() (engine.Engine, error) {
		got := <-done
		return got.engine, got.err
	})
	return o
}

// wait waits until the engine is open.
func (o *opening) wait() (engine.Engine, error) {
	o.asked = true
	return o.opened()
}

// platform is what a stage with --platform=$BUILDPLATFORM runs on, for each target. A daemon of our own has this machine's, and
// nodes are taken to be what they claim, so that nobody has to wait for them: one that is dead takes its time to show that.
func (o *opening) platform() (func(target ocispecs.Platform) ocispecs.Platform, error) {
	if o.wanted == engineManaged && o.alone {
		own := platforms.Normalize(platforms.DefaultSpec())
		return func(ocispecs.Platform) ocispecs.Platform { return own }, nil
	}
	if !o.alone {
		return o.expected()
	}
	eng, err := o.wait()
	if err != nil {
		return nil, err
	}
	return eng.Platform, nil
}

// name is the engine's name. One that nobody had to wait for keeps the name that it was wanted by.
func (o *opening) name() string {
	if o.wanted == engineManaged && o.alone || !o.asked {
		return o.wanted
	}
	if eng, err := o.wait(); err == nil {
		return eng.Name()
	}
	return o.wanted
}

// close ends what is still on its way, and closes the engine.
func (o *opening) close() {
	o.cancel()
	if eng, err := o.opened(); err == nil {
		_ = eng.Close()
	}
}
