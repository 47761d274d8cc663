package engine

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
)

// errGone is in the chain of an error that means that the engine is no more, or the link to it.
var errGone = errors.New("the engine is gone")

// nodesSession is a session on every engine that is needed.
type nodesSession struct {
	nodes   *Nodes
	source  Source
	at      map[*place]*lazy[Session]
	planned map[string]ocispecs.Platform // target → what stages on $BUILDPLATFORM are to run on
}

// Close ends the sessions.
func (s *nodesSession) Close() error {
	var all sync.WaitGroup
	for _, one := range s.at {
		if session := one.peek(); session != nil {
			all.Go(func() { _ = session.Close() }) // one on a lost node has nobody to tell
		}
	}
	all.Wait()
	return nil
}

// Build builds the parts of a variant side by side and makes one image of them.
func (s *nodesSession) Build(ctx context.Context, v Variant, emit event.Sink) (*Image, error) {
	b := &nodesBuild{session: s, variant: v, emit: emit}
	parts, err := b.build(ctx, v.Platforms)
	if err != nil {
		return nil, err
	}
	return s.merge(ctx, v, parts, emit)
}

// nodesBuild is a variant on its way.
type nodesBuild struct {
	session *nodesSession
	variant Variant
	emit    event.Sink
}

// share is what one place has to build of a variant.
type share struct {
	at        *place
	cache     string
	platforms []ocispecs.Platform
}

// builtPart is what came of a share.
type builtPart struct {
	image     *Image
	platforms []ocispecs.Platform
	layout    string // folder; "" when it was pushed
}

// build builds platforms in the places that are left. What was being built in a place that is lost is built anew in
// others, until none is left that can.
func (b *nodesBuild) build(ctx context.Context, wanted []ocispecs.Platform) ([]builtPart, error) {
	shares, err := b.divide(ctx, wanted)
	if err != nil {
		return nil, err
	}
	built := make([][]builtPart, len(shares))
	group, groupCtx := errgroup.WithContext(ctx)
	for i, one := range shares {
		group.Go(func() error {
			part, err := b.buildShare(groupCtx, one)
			if err == nil {
				built[i] = []builtPart{part}
				return nil
			}
			if one.at == b.session.nodes.main || !isLost(groupCtx, one.at, err) {
				return err
			}
			one.at.lose(err)
			b.emit.Note(event.Warning, b.variant.Name+": "+one.at.Name+" is lost; "+FormatPlatforms(one.platforms)+" is built elsewhere, if it can be")
			built[i], err = b.build(groupCtx, one.platforms)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return slices.Concat(built...), nil
}

// divide says who builds what.
func (b *nodesBuild) divide(ctx context.Context, wanted []ocispecs.Platform) ([]share, error) {
	var shares []share
	for _, p := range wanted {
		at, err := b.placeFor(ctx, p)
		if err != nil {
			return nil, err
		}
		cache := b.session.nodes.cacheOf(p)
		i := slices.IndexFunc(shares, func(s share) bool { return s.at == at && s.cache == cache })
		if i < 0 {
			i, shares = len(shares), append(shares, share{at: at, cache: cache})
		}
		shares[i].platforms = append(shares[i].platforms, p)
	}
	return shares, nil
}

// placeFor finds who builds a platform: the first of those that claim it, or the main engine.
func (b *nodesBuild) placeFor(ctx context.Context, p ocispecs.Platform) (*place, error) {
	n := b.session.nodes
	claimers := n.claimers(p)
	if len(claimers) == 0 {
		_, err := n.main.open(ctx)
		return n.main, err
	}
	var reasons []string
	for _, at := range claimers {
		reason := at.whyLost()
		if reason == nil {
			eng, err := at.open(ctx)
			if err == nil && b.mayMove(ctx, p, eng.Platform(p), nil) {
				return at, nil
			}
			reason = err
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if reason != nil {
			reasons = append(reasons, reason.Error())
		}
	}
	if n.opts.MayMove != nil && n.main.whyLost() == nil {
		if eng, err := n.main.open(ctx); err == nil && b.mainCan(ctx, p, eng) {
			return n.main, nil
		}
	}
	return nil, fault.New(fault.Unavailable, "build %s: no node is left for %s: %s", b.variant.Name, platforms.Format(p), strings.Join(reasons, "; ")).
		WithHint("the main engine cannot stand in; name another node that can: --node %s=ADDRESS", platforms.Format(p))
}

// mayMove asks whether it matters that stages on $BUILDPLATFORM run elsewhere than planned.
func (b *nodesBuild) mayMove(ctx context.Context, p, now ocispecs.Platform, main Engine) bool {
	planned, ok := b.session.planned[platforms.FormatAll(p)]
	if main == nil && (!ok || platforms.FormatAll(planned) == platforms.FormatAll(now)) {
		return true
	}
	may := b.session.nodes.opts.MayMove
	return may != nil && may(ctx, b.variant, p, planned, now, main)
}

func (b *nodesBuild) mainCan(ctx context.Context, p ocispecs.Platform, eng Engine) bool {
	return (eng.Pushes() || b.variant.Layout != "") && b.mayMove(ctx, p, eng.Platform(p), eng)
}

func (b *nodesBuild) buildShare(ctx context.Context, one share) (part builtPart, err error) {
	v := b.variant
	v.Index = len(v.Platforms) > 1
	if len(one.platforms) < len(v.Platforms) {
		v.Name += " (" + FormatPlatforms(one.platforms) + ")"
	}
	v.Platforms = one.platforms
	ownCaches(&v, one.cache)
	if v.Layout != "" {
		if v.Layout, err = os.MkdirTemp(v.Layout, "part-"); err != nil {
			return part, fault.New(fault.Unavailable, "build %s: %w", v.Name, err)
		}
	}
	eng, err := one.at.open(ctx)
	if err != nil {
		return part, err
	}
	session, err := b.session.at[one.at].get(ctx, func() (Session, error) { return eng.Open(ctx, b.session.source) })
	if err != nil {
		return part, err
	}
	image, err := session.Build(ctx, v, b.tell(one.at))
	return builtPart{image: image, platforms: one.platforms, layout: v.Layout}, err
}

// tell passes on what a place tells. Equal work has the same name everywhere, so steps of nodes get another.
func (b *nodesBuild) tell(at *place) event.Sink {
	if at == b.session.nodes.main {
		return b.emit
	}
	suffix := " on " + at.Name
	return func(e event.Event) {
		switch {
		case e.Step != nil:
			step := *e.Step
			step.ID += suffix
			e.Step = &step
		case e.Progress != nil:
			progress := *e.Progress
			progress.ID, progress.Step = progress.ID+suffix, progress.Step+suffix
			e.Progress = &progress
		case e.Log != nil:
			log := *e.Log
			log.Step += suffix
			e.Log = &log
		}
		b.emit(e)
	}
}

// isLost tells whether a build failed because its place is no more. The context is still good.
func isLost(ctx context.Context, at *place, err error) bool {
	if ctx.Err() != nil {
		return false
	}
	if errors.Is(err, errGone) {
		return true
	}
	eng, ok := at.opened().(interface{ Alive(context.Context) bool })
	if !ok || fault.KindOf(err) != fault.Unavailable {
		return false
	}
	return !eng.Alive(ctx)
}

// ownCaches are the caches of a node, which stand beside those of the main engine: two that write to one reference
// would each take away what the other has written. Inline caches are part of the image, and need no place.
func ownCaches(v *Variant, node string) {
	if node == "" || !slices.ContainsFunc(v.CacheTo, isSeparate) {
		return
	}
	for _, caches := range []*[]Cache{&v.CacheTo, &v.CacheFrom} {
		own := slices.Clone(*caches)
		for i, c := range own {
			if isSeparate(c) {
				own[i].Attrs = maps.Clone(c.Attrs)
				own[i].Attrs["ref"] += node
			}
		}
		*caches = own
	}
}

func isSeparate(c Cache) bool { return c.Type == "registry" }
