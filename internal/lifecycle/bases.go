package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"imagebuilder/internal/dockerfile"
	"imagebuilder/internal/engine"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/registry"
)

// use is one base image that a variant needs for one of its platforms.
type use struct {
	target ocispecs.Platform // platform of the variant
	base   dockerfile.Base
	with   *replacement // nil: the Dockerfile's own base stays
	supply *supply      // nil: the engine pulls what the Dockerfile names
}

// replacement is the image that is put in a base's place.
type replacement struct {
	ref    string          // as written in the document
	pinned string          // full name with tag and digest
	at     string          // pinned, where it was found: the same, or in a mirror
	digest string          // of the index, or of the manifest where there is no index
	image  *registry.Image // its manifests for the platforms that are needed
}

// findBases says for each variant and platform which base images are needed and what is put in their place.
// It finds every override that would have no effect, before anything is built. build tells what a stage on $BUILDPLATFORM
// runs on when the target platform is built.
func (j *job) findBases(build func(target ocispecs.Platform) ocispecs.Platform) error {
	var problems []fault.Problem
	for _, v := range j.variants {
		err := j.findVariantBases(v, build)
		var f *fault.Error
		switch {
		case err == nil:
		case errors.As(err, &f) && len(f.Problems) > 0:
			for _, p := range f.Problems {
				p.Pointer = fmt.Sprintf("/target/images/%d%s", v.index, p.Pointer)
				problems = append(problems, p)
			}
		default:
			return fault.Wrap(err, "%s", v.ref)
		}
	}
	return fault.InvalidInput(j.tree.DockerfileName+": a base image cannot be replaced as asked", problems)
}

func (j *job) findVariantBases(v *variant, build func(ocispecs.Platform) ocispecs.Platform) error {
	queries := make([]dockerfile.Query, len(v.platforms))
	for i, p := range v.platforms {
		queries[i] = dockerfile.Query{Args: v.args, Stage: v.image.Stage, Platform: p, BuildPlatform: build(p)}
	}
	overrides, err := j.file.Overrides(queries, v.image.Base, v.image.Bases)
	if err != nil {
		return err
	}
	with := map[string]string{} // by key: overrides with the same key have the same image
	for _, o := range overrides {
		with[o.Base.Key] = o.With
	}
	for _, q := range queries {
		bases, err := j.file.Bases(q)
		if err != nil {
			return err
		}
		for _, b := range bases {
			u := use{target: q.Platform, base: b}
			if ref := with[b.Key]; ref != "" {
				u.with = &replacement{ref: ref}
			}
			v.uses = append(v.uses, u)
		}
	}
	return nil
}

// resolveReplacements pins every replacement to the digest that its registry names now, once for all variants,
// and makes sure that it has the platforms that are needed.
func (j *job) resolveReplacements(ctx context.Context) error {
	found := map[string]*replacement{}
	needed := map[string][]ocispecs.Platform{}
	for _, v := range j.variants {
		for i := range v.uses {
			u := &v.uses[i]
			if u.with == nil {
				continue
			}
			if found[u.with.ref] == nil {
				found[u.with.ref] = u.with
			}
			u.with = found[u.with.ref]
			p := platforms.Normalize(u.base.Platform)
			if !slices.ContainsFunc(needed[u.with.ref], platforms.OnlyStrict(p).Match) {
				needed[u.with.ref] = append(needed[u.with.ref], p)
			}
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	for ref, r := range found {
		group.Go(func() error { return j.pin(ctx, r, needed[ref]) })
	}
	return group.Wait()
}

func (j *job) pin(ctx context.Context, r *replacement, needed []ocispecs.Platform) error {
	image, err := j.registry.InspectBase(ctx, r.ref, needed)
	if err != nil {
		return fault.Wrap(err, "base")
	}
	named, err := reference.ParseNormalizedNamed(r.ref)
	if err != nil {
		return fault.New(fault.Internal, "base %s passed validation: %w", r.ref, err)
	}
	r.image, r.digest = image, image.Digest
	r.pinned = strings.Split(reference.TagNameOnly(named).String(), "@")[0] + "@" + image.Digest
	r.at = r.pinned
	if !sameImage(r.pinned, image.At) {
		r.at = image.At
	}
	return nil
}

// overrides are the replacements as the engine takes them.
func (v *variant) overrides() []engine.Override {
	byKey := map[string]*supply{}
	for _, u := range v.uses {
		if u.supply != nil {
			byKey[u.base.Key] = u.supply
		}
	}
	var all []engine.Override
	for key, s := range byKey {
		all = append(all, engine.Override{Key: key, Ref: s.at, FromBases: s.fromUs})
	}
	slices.SortFunc(all, func(a, b engine.Override) int { return strings.Compare(a.Key, b.Key) })
	return all
}

// verifyBases makes sure that each replacement took effect. Where the image stands on it, the image's first layers
// must be its layers; where only another stage does, the daemon must report to have used it.
func (v *variant) verifyBases(built *engine.Image, pushed *registry.Image) error {
	for _, u := range v.uses {
		if u.with == nil {
			continue
		}
		var err error
		if u.base.Under {
			err = standsOn(pushed, u)
		} else if !slices.ContainsFunc(built.Sources, func(s string) bool { return sameImage(s, u.with.at) }) {
			err = fmt.Errorf("the engine did not use %s; it used %s", u.with.at, listOr(built.Sources, "no image"))
		}
		if err != nil {
			return fault.New(fault.Internal, "%s, %s: the base %s did not take the place of %s: %w; no tag was moved",
				v.ref, platforms.Format(u.target), u.with.ref, u.base.From, err)
		}
	}
	return nil
}

func standsOn(pushed *registry.Image, u use) error {
	image, base := find(pushed, u.target), find(u.with.image, platforms.Normalize(u.base.Platform))
	if image == nil || base == nil {
		return fmt.Errorf("no image for the platform")
	}
	if len(image.DiffIDs) < len(base.DiffIDs) || !slices.Equal(image.DiffIDs[:len(base.DiffIDs)], base.DiffIDs) {
		return fmt.Errorf("the image's first layers are not the base's")
	}
	return nil
}

func find(image *registry.Image, p ocispecs.Platform) *registry.PlatformImage {
	match := platforms.OnlyStrict(platforms.Normalize(p))
	for i := range image.Platforms {
		if match.Match(platforms.Normalize(image.Platforms[i].Platform)) {
			return &image.Platforms[i]
		}
	}
	return nil
}

// sameImage compares pinned references by name and digest; a tag beside a digest says nothing.
func sameImage(a, b string) bool {
	x, errX := reference.ParseNormalizedNamed(a)
	y, errY := reference.ParseNormalizedNamed(b)
	if errX != nil || errY != nil {
		return false
	}
	dx, okX := x.(reference.Digested)
	dy, okY := y.(reference.Digested)
	return okX && okY && x.Name() == y.Name() && dx.Digest() == dy.Digest()
}

func listOr(items []string, none string) string {
	if len(items) == 0 {
		return none
	}
	return strings.Join(items, ", ")
}

// layers names a base's layers as its registry has them, for engines that cannot push.
func (j *job) layers(ctx context.Context, ref string, p ocispecs.Platform) ([]engine.Layer, error) {
	found, err := j.registry.Layers(ctx, ref, p)
	if err != nil {
		return nil, err
	}
	layers := make([]engine.Layer, len(found))
	for i, l := range found {
		layers[i] = engine.Layer(l)
	}
	return layers, nil
}
