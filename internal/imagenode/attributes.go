package imagenode

import (
	"encoding/json"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
)

// Attributes are the attributes that a node has after an operation, made of the plugin's answer: text, numbers, lists
// and maps as encoding/json knows them, except that sizes are int64. build_log is "", for the host to fill in.
//
// delete and verify leave attributes as they are: there are none then.
func Attributes(op Operation, raw json.RawMessage) (map[string]any, error) {
	if op.Name != Create && op.Name != Rebuild {
		return map[string]any{}, nil
	}
	var r result.Result
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, fault.New(fault.Internal, "read the result of %s of %s: %w", op.Name, op.Node, err)
	}
	images, refs := []any{}, []any{}
	for _, image := range r.Images {
		var size int64
		platforms := []any{}
		for _, p := range image.Platforms {
			platforms = append(platforms, p.Platform)
			size += p.Size
		}
		images = append(images, map[string]any{
			"ref": image.Ref, "digest": image.Digest, "pinned_ref": image.PinnedRef,
			"platforms": platforms, "size": size, "unchanged": image.Unchanged,
		})
		refs = append(refs, image.Ref)
	}
	attributes := map[string]any{
		"images": images, "image_refs": refs, "image_ref": "", "image_digest": "",
		"source_revision": r.Source.Commit, "build_log": "",
	}
	if len(r.Images) > 0 {
		attributes["image_ref"], attributes["image_digest"] = r.Images[0].PinnedRef, r.Images[0].Digest
	}
	return attributes, nil
}

// Notes are sentences for people about what an operation did, made of the plugin's answer.
func Notes(op Operation, raw json.RawMessage) []string {
	notes := []string{}
	switch op.Name {
	case Delete:
		var deleted result.Deleted
		if json.Unmarshal(raw, &deleted) != nil {
			return notes
		}
		for _, tag := range deleted.Tags {
			switch {
			case tag.Removed:
				notes = append(notes, tag.Ref+": removed")
			case tag.Kept != "":
				notes = append(notes, tag.Ref+": "+tag.Kept)
			}
		}
	case Create, Rebuild:
		var r result.Result
		if json.Unmarshal(raw, &r) != nil {
			return notes
		}
		for _, image := range r.Images {
			if image.Unchanged {
				notes = append(notes, image.Ref+": unchanged")
			}
		}
	}
	return notes
}
