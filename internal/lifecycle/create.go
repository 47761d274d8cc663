package lifecycle

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"

	"imagebuilder/internal/engine"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/registry"
	"imagebuilder/internal/result"
)

// defaultParallel is how many variants are built at once. BuildKit bounds what its steps do at once itself; this
// bounds open streams and exports, of which more bring nothing (4 variants at once were as fast as 12).
const defaultParallel = 4

// create builds, checks and tags every image of the document whose inputs are not those of the image that is
// there already.
func (j *job) create(ctx context.Context) (any, error) {
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	opening := j.startEngine(ctx)
	defer opening.close()
	j.startPushCheck(ctx, giveUp)
	defer func() { _ = j.allowed() }() // what it has begun at the registry, it also ends
	out, err := j.createOn(ctx, opening)
	if out == nil {
		return nil, ended(ctx, err)
	}
	return out, ended(ctx, err)
}

func (j *job) createOn(ctx context.Context, opening *opening) (*result.Result, error) {
	start := j.now()
	if err := j.fetchSource(ctx); err != nil {
		return nil, err
	}
	fetched := j.now()

	platform, err := opening.platform()
	if err != nil {
		return nil, err
	}
	if err := j.findBases(platform); err != nil {
		return nil, err
	}
	if err := j.resolveReplacements(ctx); err != nil {
		return nil, err
	}
	images, pending, err := j.findUnchanged(ctx)
	if err != nil {
		return nil, err
	}
	failures := make([]error, len(images))
	if len(pending) > 0 {
		if err := j.build(ctx, opening, pending, images, failures); err != nil {
			return nil, err
		}
	}
	out := &result.Result{
		Images: images, Engine: opening.name(),
		Source: result.SourceResult{URL: j.tree.URL, Commit: j.tree.Commit},
		Times:  result.Times{Fetch: seconds(fetched.Sub(start)), Total: seconds(j.now().Sub(start))},
	}
	for _, image := range images {
		out.Times.Build = max(out.Times.Build, image.Times.Build)
		out.Times.Push = max(out.Times.Push, image.Times.Push)
	}
	return out, j.summary("images failed", failures)
}

// build builds the pending variants in one session.
func (j *job) build(ctx context.Context, opening *opening, pending []*variant, images []result.ImageResult, failures []error) error {
	eng, err := opening.wait()
	if err != nil {
		return err
	}
	if err := j.correctBases(ctx, eng, pending); err != nil {
		return err
	}
	if err := j.refuseForeignRuns(pending, eng.Platform, j.abilityOf(ctx, eng)); err != nil {
		return err
	}
	if err := j.supplyBases(ctx, pending); err != nil {
		return err
	}
	if err := j.allowed(); err != nil {
		return err
	}
	if err := j.checkCache(ctx); err != nil {
		return err
	}
	source := engine.Source{
		Context: j.tree.Context, ContextKey: j.tree.ContextKey, Dockerfile: j.tree.Dockerfile, Dockerignore: j.tree.Dockerignore,
		Secrets: j.secrets.Secrets, Credentials: j.registry.Credentials, Layers: j.layers,
		MayReach: j.engineMayReach(),
	}
	if j.bases != nil {
		source.Bases = j.bases
	}
	session, err := eng.Open(ctx, source)
	if err != nil {
		return err
	}
	defer session.Close()
	j.pushes = !eng.Pushes()
	j.buildAll(ctx, session, pending, images, failures)
	return nil
}

// buildAll builds variants side by side, into their places in images and failures. One that fails stops none of the others.
func (j *job) buildAll(ctx context.Context, session engine.Session, variants []*variant, images []result.ImageResult, failures []error) {
	parallel := j.settings.Parallel
	if parallel <= 0 {
		parallel = defaultParallel
	}
	slots := make(chan struct{}, parallel)
	var all sync.WaitGroup
	for _, v := range variants {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			images[v.index], failures[v.index] = j.buildVariant(ctx, session, v)
		})
	}
	all.Wait()
}

func (j *job) buildVariant(ctx context.Context, session engine.Session, v *variant) (result.ImageResult, error) {
	start := j.now()
	out := result.ImageResult{Ref: v.ref}
	err := j.buildOne(ctx, session, v, &out)
	out.Times.Total = seconds(j.now().Sub(start))
	if err != nil {
		f := fault.As(ended(ctx, err))
		return result.ImageResult{Ref: v.ref, Times: out.Times, Error: errorResult(f)}, f
	}
	return out, nil
}

// buildOne builds and pushes a variant by digest, looks at what the registry then has, and only then moves the tag.
func (j *job) buildOne(ctx context.Context, session engine.Session, v *variant, out *result.ImageResult) error {
	if err := j.lease.check(ctx); err != nil { // the engine pushes, too
		return err
	}
	request := engine.Variant{
		Name: v.ref, Repository: v.repository, Platforms: v.platforms, Overrides: v.overrides(),
		BuildArgs: v.args, Labels: v.labels, Stage: v.image.Stage, NoCache: j.doc.Options.NoCache,
		Insecure:    j.registry.Insecure(v.repository),
		Annotations: v.annotations(j),
		Epoch:       j.epoch, Compression: j.doc.Options.Compression, CompressionLevel: j.doc.Options.CompressionLevel,
	}
	v.useCache(&request, j.doc, j.registry.Insecure)
	if j.pushes || v.pushes {
		request.Layout = filepath.Join(j.dir, "layout-"+strconv.Itoa(v.index))
		if err := os.Mkdir(request.Layout, 0o700); err != nil {
			return fault.New(fault.Unavailable, "make a temporary folder: %w", err)
		}
	}
	built, err := session.Build(ctx, request, j.emit)
	if err != nil {
		return err
	}
	out.Times.Build, out.Times.Push = seconds(built.Build), seconds(built.Push)

	push := j.now()
	if j.settings.Force { // otherwise it was told before the build
		j.noteMoved(v)
	}
	pushed, err := j.publish(ctx, v, request.Layout, built)
	if err != nil {
		return err
	}
	out.Times.Push += seconds(j.now().Sub(push))
	out.Digest, out.PinnedRef = pushed.Digest, v.repository+"@"+pushed.Digest
	for _, p := range v.platforms {
		image := find(pushed, p)
		out.Platforms = append(out.Platforms, result.PlatformResult{
			Platform: platforms.Format(p), Digest: image.Digest, Size: image.Size, Layers: image.Layers,
		})
	}
	out.Bases = v.baseResults(func(u use) string {
		if u.supply != nil {
			_, digest, _ := strings.Cut(u.supply.at, "@")
			return digest
		}
		return digestOf(u.base.Ref, built.Sources)
	})
	out.Moved = v.moved
	return nil
}

// publish makes a pushed image visible under its tag, if it is what was asked for.
func (j *job) publish(ctx context.Context, v *variant, layout string, built *engine.Image) (*registry.Image, error) {
	digest := built.Digest.String()
	if layout != "" {
		if err := j.lease.check(ctx); err != nil {
			return nil, err
		}
		sent, err := j.registry.PushPartialLayout(ctx, layout, v.repository, built.Elsewhere)
		if err != nil {
			return nil, err
		}
		digest = sent
	}
	pinned := v.repository + "@" + digest
	pushed, err := j.registry.Inspect(ctx, pinned, v.platforms)
	if err != nil {
		return nil, err
	}
	if pushed.Digest != built.Digest.String() {
		return nil, fault.New(fault.Internal, "%s: the registry has %s, built was %s; no tag was moved", v.ref, pushed.Digest, built.Digest)
	}
	if err := v.verifyBases(built, pushed); err != nil {
		return nil, err
	}
	if there := v.there(); there == nil || there.Digest != digest { // as other builders do, a tag that names it is left alone
		if err := j.lease.check(ctx); err != nil {
			return nil, err
		}
		if err := j.registry.Tag(ctx, pinned, v.image.Tag); err != nil {
			return nil, err
		}
	}
	served, err := j.registry.Digest(ctx, v.ref)
	if err != nil {
		return nil, err
	}
	if served != digest {
		return nil, fault.New(fault.Unavailable, "%s: the registry serves %s, pushed was %s", v.ref, served, digest).
			WithHint("somebody else may have pushed this tag at the same time")
	}
	return pushed, nil
}

// baseResults names what was used, pinned: a replacement as we resolved it, any other base as own says.
func (v *variant) baseResults(own func(use) string) []result.BaseResult {
	var out []result.BaseResult
	seen := map[string]bool{}
	for _, u := range v.uses {
		if seen[u.base.Key] {
			continue
		}
		seen[u.base.Key] = true
		r := result.BaseResult{From: u.base.From, Ref: u.base.Ref}
		if u.with != nil {
			r.Ref, r.Digest = u.with.ref, u.with.digest
		} else {
			r.Digest = own(u)
		}
		out = append(out, r)
	}
	return out
}

// digestOf finds the digest under which the daemon used an image.
func digestOf(ref string, sources []string) string {
	for _, s := range sources {
		name, digest, ok := strings.Cut(s, "@")
		if !ok {
			continue
		}
		if named, err := reference.ParseNormalizedNamed(name); err == nil && reference.TagNameOnly(named).String() == ref || s == ref {
			return digest
		}
	}
	return ""
}

// summary is the error of the whole: that of its one image, or what failed out of how many.
func (j *job) summary(what string, failures []error) error {
	var first *fault.Error
	var lines []string
	for i, err := range failures {
		if err == nil {
			continue
		}
		f := fault.As(err)
		if first == nil {
			first = f
		}
		lines = append(lines, j.variants[i].ref+": "+f.Message)
	}
	switch {
	case first == nil:
		return nil
	case len(failures) == 1 || first.Kind == fault.Cancelled:
		return first
	}
	f := fault.New(first.Kind, "%d of %d %s\n%s", len(lines), len(failures), what, strings.Join(lines, "\n"))
	f.Hint = first.Hint
	return f
}

func errorResult(err error) *result.ErrorResult {
	f := fault.As(err)
	return &result.ErrorResult{Kind: f.Kind, Message: f.Message, Hint: f.Hint}
}

func seconds(d time.Duration) float64 { return d.Round(time.Millisecond).Seconds() }
