package engine

import (
	"context"
	"os"
	"runtime"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/worker/label"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Runner is an engine that knows what can be run where it builds.
type Runner interface {
	// Runs tells for which platforms a RUN can be carried out where images of the target platform are built, natively or
	// by emulation, as far as the engine knows; none means that it does not. here tells that it is this machine, whose
	// kernel knows better: a daemon remembers emulators that are switched off.
	Runs(ctx context.Context, target ocispecs.Platform) (can []ocispecs.Platform, here bool)
}

var (
	_ Runner = (*BuildKit)(nil)
	_ Runner = (*Docker)(nil)
	_ Runner = (*Nodes)(nil)
)

// Runs are the platforms that the daemon's first worker claims.
func (b *BuildKit) Runs(context.Context, ocispecs.Platform) (can []ocispecs.Platform, here bool) {
	for _, p := range b.workers[0].Platforms {
		can = append(can, platforms.Normalize(p))
	}
	return can, b.isHere(b.workers[0].Labels[label.Hostname])
}

// Runs are the platforms that the Engine's BuildKit claims. Docker Desktop has its Engine in a machine of its own.
func (d *Docker) Runs(ctx context.Context, target ocispecs.Platform) (can []ocispecs.Platform, here bool) {
	can, here = d.BuildKit.Runs(ctx, target)
	if !here {
		return can, false
	}
	within, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	info, err := d.api.Info(within)
	return can, err != nil || d.isHere(info.Name)
}

// Runs asks the place that builds the platform: a node that claims it, or the main engine where none does. Of
// nodes that do not answer nothing is known; whether another takes up what they claim shows when it is built.
func (n *Nodes) Runs(ctx context.Context, target ocispecs.Platform) (can []ocispecs.Platform, here bool) {
	places := n.claimers(target)
	if len(places) == 0 {
		places = []*place{n.main}
	}
	for _, at := range places {
		if eng, ok := at.opened().(Runner); ok {
			return eng.Runs(ctx, target)
		}
	}
	return nil, false
}

// isHere tells whether the daemon shares this machine's kernel: it listens on a socket here, and does not say that its
// machine has another name, as one behind a forwarded socket or in a virtual machine does.
func (b *BuildKit) isHere(hostname string) bool {
	if runtime.GOOS != "linux" || !strings.HasPrefix(b.address, "unix://") {
		return false
	}
	own, err := os.Hostname()
	return err != nil || hostname == "" || hostname == own
}
