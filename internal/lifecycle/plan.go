package lifecycle

import (
	"context"
	"maps"
	"slices"

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
	platform, err := j.expectedPlatform()
	if err != nil {
		return nil, err
	}
	if err := j.findBases(platform); err != nil {
		return nil, err
	}
	able, done := j.expectedAbility(ctx)
	defer done()
	if err := j.refuseForeignRuns(j.variants, platform, able); err != nil {
		return nil, err
	}
	if err := j.resolveReplacements(ctx); err != nil {
		return nil, err
	}
	digests, err := j.resolveOwnBases(ctx)
	if err != nil {
		return nil, err
	}
	nodes, err := nodesOf(j.settings)
	if err != nil {
		return nil, err
	}
	out := &result.Plan{
		Source: result.PlanSource{URL: j.tree.URL, Commit: j.tree.Commit, Dockerfile: j.tree.DockerfileName},
		Engine: engineName(j.settings),
	}
	for _, v := range j.variants {
		image := result.PlanImage{Ref: v.ref, Platforms: v.image.Platforms, Stage: v.image.Stage, Push: result.PushAllowed, Nodes: nodesFor(v, nodes)}
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

// resolveOwnBases asks for the digests of the bases that stay as the Dockerfile names them, by their full references.
func (j *job) resolveOwnBases(ctx context.Context) (map[string]string, error) {
	digests := map[string]string{}
	for _, v := range j.variants {
		for _, u := range v.uses {
			if u.with == nil {
				digests[u.base.Ref] = ""
			}
		}
	}
	j.own.lookUp(ctx, j.registry, slices.Collect(maps.Keys(digests)))
	for ref := range digests {
		found := j.own[ref]
		if found.err != nil {
			return nil, fault.Wrap(found.err, "base")
		}
		digests[ref] = found.image.Digest
	}
	return digests, nil
}
