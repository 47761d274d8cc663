package lifecycle

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"sync"

	"github.com/containerd/platforms"

	"imagebuilder/internal/contentkey"
	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/registry"
	"imagebuilder/internal/result"
)

// findUnchanged compares the inputs of every variant with those of the image that its tag names now. What is the same
// is a result already; the others are pending.
func (j *job) findUnchanged(ctx context.Context) (images []result.ImageResult, pending []*variant, err error) {
	images = make([]result.ImageResult, len(j.variants))
	for _, v := range j.variants {
		j.lookUp(ctx, v)
	}
	if j.doc.Options.NoCache {
		return images, j.variants, nil // whoever wants every step anew wants steps whose inputs we do not see
	}
	start := j.now()
	if err := j.computeKeys(ctx); err != nil {
		return nil, nil, err
	}
	if j.settings.Force {
		return images, j.variants, ctx.Err()
	}
	for i, v := range j.variants {
		if v.key == "" || !v.isMadeInto(v.there()) {
			j.noteMoved(v)
			pending = append(pending, v)
			continue
		}
		j.noteStranger(v, v.there())
		images[i] = v.unchangedResult(v.there())
		images[i].Times.Total = seconds(j.now().Sub(start))
		j.emit.Note(event.Info, v.ref+": unchanged")
	}
	return images, pending, ctx.Err()
}

// lookUp begins to ask what the variant's tag names.
func (j *job) lookUp(ctx context.Context, v *variant) {
	answer := make(chan *registry.Image, 1)
	go func() {
		there, err := j.registry.Inspect(ctx, v.ref, nil)
		if err != nil {
			there = nil // nothing, or nothing that we can read: it is built, and the push has its say
		}
		answer <- there
	}()
	v.there = sync.OnceValue(func() *registry.Image { return <-answer })
}

// noteMoved tells which bases are others than those of the image that the tag names.
func (j *job) noteMoved(v *variant) {
	v.moved = v.movedSince(v.there())
	for _, m := range v.moved {
		j.emit.Note(event.Info, v.ref+": base "+m.From+" moved from "+m.Old+" to "+m.New)
	}
}

// computeKeys gives every variant its key, or none where a base cannot be looked up: then it is built.
func (j *job) computeKeys(ctx context.Context) error {
	tree := j.tree.Context
	if j.tree.Outline != nil {
		tree = j.tree.Outline // tells the same of a repository without checking it out
	}
	visible, err := contentkey.Context(ctx, tree, j.tree.Dockerignore)
	if err != nil {
		return fault.Wrap(err, "%s", j.tree.URL)
	}
	own, err := j.resolveOwnBases(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		j.emit.Note(event.Warning, fault.As(err).Message+": whether anything has changed cannot be told")
		return nil
	}
	for _, v := range j.variants {
		bases := v.baseDigests(own)
		key, err := contentkey.Key(contentkey.Inputs{
			Context: visible, Dockerfile: j.tree.Dockerfile, Bases: bases, BuildArgs: v.args,
			Labels: v.askedLabels(j), Platforms: v.image.Platforms, Stage: v.image.Stage, Secrets: j.secrets.Secrets,
			Options: map[string]string{
				"compression": j.doc.Options.Compression, "compression_level": strconv.Itoa(j.doc.Options.CompressionLevel),
				"source_date_epoch": j.epochText(),
			},
		})
		if err != nil {
			return fault.New(fault.Internal, "%s: %w", v.ref, err)
		}
		known, err := json.Marshal(bases)
		if err != nil {
			return fault.New(fault.Internal, "%s: %w", v.ref, err)
		}
		v.key, v.own = key, own
		v.labels = maps.Clone(v.labels)
		v.labels[contentkey.KeyLabel], v.labels[contentkey.BasesLabel] = key, string(known)
	}
	return nil
}

// askedLabels are the document's labels, without those that tell where the source is from: a commit that changes
// nothing that the build sees is no reason to build.
func (v *variant) askedLabels(j *job) map[string]string {
	return merged(j.doc.Options.Labels, v.image.Labels)
}

// baseDigests are the bases by the name that the Dockerfile has for them, with a platform where it is not the image's.
func (v *variant) baseDigests(own map[string]string) map[string]string {
	digests := map[string]string{}
	for _, u := range v.uses {
		digest := own[u.base.Ref]
		if u.with != nil {
			digest = u.with.digest
		}
		digests[u.base.From] = digest
	}
	return digests
}

// annotations are what stands in each platform's manifest. The key is there as well as among the labels, because an image that
// somebody else builds on this one inherits its labels: put under the same tag, it would pass for this one.
func (v *variant) annotations(j *job) map[string]string {
	if v.key == "" {
		return j.ownership()
	}
	return merged(j.ownership(), map[string]string{contentkey.KeyLabel: v.key})
}

// isMadeInto tells whether an image in the registry is what the variant would become: every platform that was asked for,
// no other, and each made of the very same inputs.
func (v *variant) isMadeInto(there *registry.Image) bool {
	if there == nil || len(there.Platforms) != len(v.platforms) {
		return false
	}
	for _, p := range v.platforms {
		image := find(there, p)
		if image == nil || image.Labels[contentkey.KeyLabel] != v.key || image.Annotations[contentkey.KeyLabel] != v.key {
			return false
		}
	}
	return true
}

func (v *variant) unchangedResult(there *registry.Image) result.ImageResult {
	out := result.ImageResult{Ref: v.ref, Digest: there.Digest, PinnedRef: v.repository + "@" + there.Digest, Unchanged: true}
	for _, p := range v.platforms {
		image := find(there, p)
		out.Platforms = append(out.Platforms, result.PlatformResult{
			Platform: platforms.Format(p), Digest: image.Digest, Size: image.Size, Layers: image.Layers,
		})
	}
	out.Bases = v.baseResults(func(u use) string { return v.own[u.base.Ref] })
	return out
}

// movedSince names the bases that are others than those that the image in the registry was made of.
func (v *variant) movedSince(there *registry.Image) []result.MovedBase {
	if v.key == "" || there == nil || len(there.Platforms) == 0 {
		return nil
	}
	var before map[string]string
	if json.Unmarshal([]byte(there.Platforms[0].Labels[contentkey.BasesLabel]), &before) != nil {
		return nil // not an image of ours, or of a time before the label
	}
	now := v.baseDigests(v.own)
	var moved []result.MovedBase
	for _, from := range slices.Sorted(maps.Keys(now)) {
		if old := before[from]; old != "" && old != now[from] {
			moved = append(moved, result.MovedBase{From: from, Old: old, New: now[from]})
		}
	}
	return moved
}
