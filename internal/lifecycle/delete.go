package lifecycle

import (
	"context"
	"encoding/json"
	"errors"

	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
)

// What becomes of the tags of a node that goes.
const (
	removalDelete = "delete"
	removalKeep   = "keep"
)

// removalInput is the input of delete beside the target.
var removalInput = map[string]json.RawMessage{
	"removal": json.RawMessage(`{"enum": ["` + removalDelete + `", "` + removalKeep + `"], "default": "` + removalDelete + `",
		"description": "What becomes of the tags."}`),
}

// Why a tag was not removed although nothing is wrong.
const (
	keptAsAsked  = "kept, as removal says"
	keptGone     = "was gone already"
	keptStranger = "kept: it now names an image of somebody else"
)

// deleteTags removes the tags of the target that name images of ours: never a manifest, never another tag.
func (j *job) deleteTags(ctx context.Context, which tags) (any, error) {
	out := &result.Deleted{Tags: make([]result.DeletedTag, len(j.variants))}
	failures := j.eachTag(func(i int, v *variant) error {
		tag := &out.Tags[i]
		tag.Ref = v.ref
		if which.Removal == removalKeep {
			tag.Kept = keptAsAsked
			return nil
		}
		end := j.emit.Begin("delete "+v.ref, "delete "+v.ref, j.now)
		kept, err := j.deleteTag(ctx, v)
		end(err)
		tag.Kept, tag.Removed = kept, kept == "" && err == nil
		if kept != "" {
			j.emit.Note(event.Info, v.ref+": "+kept)
		}
		if err != nil {
			tag.Error = errorResult(err)
		}
		return err
	})
	return out, j.tagSummary("could not be removed", failures)
}

// deleteTag removes a tag if it names an image of ours, and says why it does not.
func (j *job) deleteTag(ctx context.Context, v *variant) (kept string, err error) {
	digest, err := j.ours(ctx, v)
	switch {
	case fault.KindOf(err) == fault.NotFound:
		return keptGone, nil
	case errors.Is(err, errNotOurs):
		return keptStranger, nil
	case err != nil:
		return "", err
	}
	// Registries take no condition for a deletion: ask once more, as late as possible.
	now, err := j.registry.Digest(ctx, v.ref)
	switch {
	case fault.KindOf(err) == fault.NotFound:
		return keptGone, nil
	case err != nil:
		return "", err
	case now != digest:
		return keptStranger, nil
	}
	if err := j.registry.DeleteTag(ctx, v.ref); fault.KindOf(err) == fault.NotFound {
		return keptGone, nil
	} else if err != nil {
		f := fault.As(err)
		if f.Kind == fault.Denied && f.Hint != "" {
			f = f.WithHint("%s; removal: %s leaves tags where they are", f.Hint, removalKeep)
		}
		return "", f
	}
	switch now, err = j.registry.Digest(ctx, v.ref); {
	case fault.KindOf(err) == fault.NotFound:
		return "", nil
	case err != nil:
		return "", err
	case now == digest:
		return "", fault.New(fault.Unavailable, "delete %s: the registry said that it is done, and still serves it", v.ref)
	}
	return "", nil // somebody has pushed there since: theirs is not ours to remove
}
