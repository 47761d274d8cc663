package lifecycle

import (
	"context"
	"errors"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
)

// verifyTags checks that every tag of the target names an image of ours that has the platforms that it should have.
func (j *job) verifyTags(ctx context.Context) (any, error) {
	out := &result.Verified{Tags: make([]result.VerifiedTag, len(j.variants))}
	failures := j.eachTag(func(i int, v *variant) error {
		end := j.emit.Begin("verify "+v.ref, "verify "+v.ref, j.now)
		digest, err := j.verifyTag(ctx, v)
		end(err)
		out.Tags[i] = result.VerifiedTag{Ref: v.ref, Digest: digest}
		if err != nil {
			out.Tags[i].Error = errorResult(err)
		}
		return err
	})
	return out, j.tagSummary("are not as they were pushed", failures)
}

func (j *job) verifyTag(ctx context.Context, v *variant) (string, error) {
	const hint = "rebuild pushes it again"
	digest, err := j.ours(ctx, v)
	switch {
	case fault.KindOf(err) == fault.NotFound:
		return "", fault.New(fault.NotFound, "verify %s: the tag is gone", v.ref).WithHint(hint)
	case errors.Is(err, errNotOurs):
		return digest, fault.New(fault.NotFound, "verify %s: the tag now names an image of somebody else, %s", v.ref, digest).WithHint(hint)
	case err != nil:
		return "", err
	}
	if _, err := j.registry.Inspect(ctx, v.repository+"@"+digest, v.platforms); err != nil {
		return digest, fault.Wrap(err, "verify %s", v.ref)
	}
	return digest, nil
}
