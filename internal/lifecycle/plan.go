package lifecycle

import (
	"context"

	"github.com/containerd/platforms"
	"golang.org/x/sync/errgroup"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
)

// plan resolves everything that create would use and changes nothing.
func (j *job) plan(ctx context.Context) (any, error) {
	if err := j.checkPush(ctx); err != nil {
		return nil, err
	}
	if err := j.fetchSource(ctx); err != nil {
		return nil, err
	}
	if err := j.findBases(platforms.DefaultSpec()); err != nil {
		return nil, err
	}
	if err := j.resolveReplacements(ctx); err != nil {
		return nil, err
	}
	digests, err := j.resolveOwnBases(ctx)
	if err != nil {
		return nil, err
	}
	out := &result.Plan{
		Source: result.PlanSource{URL: j.tree.URL, Commit: j.tree.Commit, Dockerfile: j.tree.DockerfileName},
		Engine: engineName(j.settings),
	}
	for _, v := range j.variants {
		image := result.PlanImage{Ref: v.ref, Platforms: v.image.Platforms, Stage: v.image.Stage, Push: result.PushAllowed}
		seen := map[string]bool{}
		for _, u := range v.uses {
			if seen[u.base.Key] {
				continue
			}
			seen[u.base.Key] = true
			b := result.PlanBase{From: u.base.From, Ref: u.base.Ref, Digest: digests[u.base.Ref]}
			if u.with != nil {
				b.Ref, b.Digest, b.Replaced = u.with.ref, u.with.digest, true
			}
			image.Bases = append(image.Bases, b)
		}
		out.Images = append(out.Images, image)
	}
	return out, nil
}

// resolveOwnBases asks for the digests of the bases that stay as the Dockerfile names them.
func (j *job) resolveOwnBases(ctx context.Context) (map[string]string, error) {
	refs := map[string]*string{}
	for _, v := range j.variants {
		for _, u := range v.uses {
			if u.with == nil {
				refs[u.base.Ref] = new(string)
			}
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	for ref, digest := range refs {
		group.Go(func() error {
			image, err := j.registry.Resolve(ctx, ref)
			if err != nil {
				return fault.Wrap(err, "base")
			}
			*digest = image.Digest
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	digests := map[string]string{}
	for ref, digest := range refs {
		digests[ref] = *digest
	}
	return digests, nil
}
