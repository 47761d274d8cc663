package engine

import (
	"context"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
)

// aliveWithin is how long a node may take to show that it is still there, after a build on it has failed. With the time
// that a cut link takes to be noticed, it stays below 15 seconds.
const aliveWithin = 3 * time.Second

// Nodes builds each platform on the node that claims it, and everything else on the main engine. What comes of one
// variant becomes one image.
//
// A node that is lost while it builds is left out from then on, and its platforms are taken up elsewhere: by
// another node that claims them, or by the main engine if it can.
type Nodes struct {
	opts  NodesOptions
	main  *place
	nodes []*place
}

// Node is an engine and what it is to build.
type Node struct {
	Name      string              // as messages call it, an address for example
	Platforms []ocispecs.Platform // that it claims; of no account for the main engine
	Open      func(context.Context) (Engine, error)
}

// NodesOptions say which engines there are.
type NodesOptions struct {
	Main Node // is opened when it is needed; its name is that of an engine
	// Nodes stand in the order in which they are asked where several claim a platform.
	Nodes []Node
	// Wanted are the platforms that are going to be built: nodes that claim none of them are not opened.
	Wanted []ocispecs.Platform
	// MayMove tells whether a platform of a variant may be built in another place than the one that was meant. Stages on
	// $BUILDPLATFORM were to run on planned, and would now run on now. engine is the main engine, and nil where the
	// other place claims the platform. Without MayMove, only such a place takes a platform up.
	MayMove func(ctx context.Context, v Variant, target, planned, now ocispecs.Platform, main Engine) bool
	// Manifests is where variants are pushed to.
	Manifests Manifests
	Emit      event.Sink
}

// Manifests reads and writes manifests and indexes of a registry.
type Manifests interface {
	// Manifest reads what repository@digest names.
	Manifest(ctx context.Context, ref string) ([]byte, error)
	// PutManifest writes a manifest or an index to a repository, under its digest and no tag.
	PutManifest(ctx context.Context, repository, mediaType string, data []byte) error
}

// OpenNodes opens the nodes that are needed, and the main engine if there are platforms that no node claims. A node that
// does not answer is a warning: what becomes of its platforms shows when they are built.
func OpenNodes(ctx context.Context, opts NodesOptions) (*Nodes, error) {
	n := &Nodes{opts: opts, main: &place{Node: opts.Main}}
	for _, node := range opts.Nodes {
		n.nodes = append(n.nodes, &place{Node: node})
	}
	needed := map[*place]bool{}
	for _, p := range opts.Wanted {
		for _, at := range n.claimers(p) {
			needed[at] = true
		}
		if len(n.claimers(p)) == 0 {
			needed[n.main] = true
		}
	}
	group, groupCtx := errgroup.WithContext(ctx)
	for at := range needed {
		group.Go(func() error {
			_, err := at.open(groupCtx)
			if err == nil || at != n.main && fault.KindOf(err) == fault.Unavailable {
				return nil
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		_ = n.Close()
		return nil, err
	}
	for _, at := range n.nodes {
		if reason := at.whyLost(); reason != nil {
			opts.Emit.Note(event.Warning, reason.Error())
		}
	}
	if n.needsStandIn() {
		_, _ = n.main.open(ctx) // what it says counts once there is something to build
	}
	if err := ctx.Err(); err != nil {
		_ = n.Close()
		return nil, err
	}
	return n, nil
}

// needsStandIn tells whether the main engine has to stand in for nodes from the beginning.
func (n *Nodes) needsStandIn() bool {
	return n.opts.MayMove != nil && slices.ContainsFunc(n.opts.Wanted, func(p ocispecs.Platform) bool {
		return !slices.ContainsFunc(n.claimers(p), func(at *place) bool { return at.opened() != nil })
	})
}

// Name is that of the main engine, or of the nodes where it was not needed.
func (n *Nodes) Name() string {
	for _, at := range append([]*place{n.main}, n.nodes...) {
		if eng := at.opened(); eng != nil {
			return eng.Name()
		}
	}
	return n.main.Name
}

// Platform is what a stage with --platform=$BUILDPLATFORM runs on in the place that builds the target platform.
func (n *Nodes) Platform(target ocispecs.Platform) ocispecs.Platform {
	for _, at := range append(n.claimers(target), n.main) {
		if eng := at.opened(); eng != nil {
			return eng.Platform(target)
		}
	}
	return platforms.Normalize(target) // nothing will build it
}

// Pushes tells whether all engines push. Nodes do.
func (n *Nodes) Pushes() bool {
	eng := n.main.opened()
	return eng == nil || eng.Pushes()
}

// Open prepares the builds of one source. Each engine that then builds something of it gets a session of its own, and
// with it the context.
func (n *Nodes) Open(_ context.Context, src Source) (Session, error) {
	s := &nodesSession{nodes: n, source: src, at: map[*place]*lazy[Session]{}, planned: map[string]ocispecs.Platform{}}
	for _, at := range append([]*place{n.main}, n.nodes...) {
		s.at[at] = &lazy[Session]{}
	}
	for _, p := range n.opts.Wanted {
		s.planned[platforms.FormatAll(p)] = n.Platform(p)
	}
	return s, nil
}

// Close lets go of all engines.
func (n *Nodes) Close() error {
	var first error
	for _, at := range append([]*place{n.main}, n.nodes...) {
		if eng := at.opened(); eng != nil {
			if err := eng.Close(); err != nil && first == nil {
				first = err
			}
		}
	}
	return first
}

// claimers are the nodes that claim a platform.
func (n *Nodes) claimers(p ocispecs.Platform) []*place {
	var found []*place
	for _, at := range n.nodes {
		if slices.ContainsFunc(at.Platforms, platforms.OnlyStrict(platforms.Normalize(p)).Match) {
			found = append(found, at)
		}
	}
	return found
}

// cacheOf tells the build caches of nodes apart, as each writes its own: _linux_arm64 after the platform that its node
// claims first, and "" for the main engine. In a tag, whoever chose it can tell where it ends.
func (n *Nodes) cacheOf(p ocispecs.Platform) string {
	claimers := n.claimers(p)
	if len(claimers) == 0 {
		return ""
	}
	return "_" + notInCaches.ReplaceAllString(platforms.Format(claimers[0].Platforms[0]), "_")
}

var notInCaches = regexp.MustCompile(`[^A-Za-z0-9]+`)

// place is an engine that can be lost.
type place struct {
	Node
	engine lazy[Engine]

	mu     sync.Mutex
	reason error // why it is lost
}

func (p *place) open(ctx context.Context) (Engine, error) {
	eng, err := p.engine.get(ctx, func() (Engine, error) { return p.Open(ctx) })
	if err != nil && ctx.Err() == nil {
		p.lose(err)
	}
	return eng, err
}

func (p *place) opened() Engine { return p.engine.peek() }

func (p *place) lose(reason error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reason == nil {
		p.reason = reason
	}
}

func (p *place) whyLost() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reason
}

// lazy is made when it is first needed. A failure stays, unless it came of the end of somebody's context.
type lazy[T any] struct {
	mu    sync.Mutex
	done  bool
	value T
	err   error
}

func (l *lazy[T]) get(ctx context.Context, made func() (T, error)) (T, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.done {
		l.value, l.err = made()
		l.done = l.err == nil || ctx.Err() == nil
	}
	return l.value, l.err
}

// peek is the value if there is one, and zero otherwise.
func (l *lazy[T]) peek() T {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.value
}
