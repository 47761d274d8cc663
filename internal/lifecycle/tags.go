package lifecycle

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/contentkey"
	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/registry"
	"imagebuilder/plugin"
	"imagebuilder/schemas"
)

// tags are the inputs of operations that look at what the tags of a target name.
type tags struct {
	Target  json.RawMessage `json:"target"`
	Removal string          `json:"removal"`
}

// tagInputs is the schema of the inputs of an operation on tags: a target, as build_params has it, and more.
func tagInputs(more map[string]json.RawMessage) json.RawMessage {
	var document struct {
		Properties  map[string]json.RawMessage `json:"properties"`
		Definitions json.RawMessage            `json:"definitions"`
	}
	if err := json.Unmarshal(schemas.BuildParams(), &document); err != nil {
		return json.RawMessage(`{"type": "object"}`) // buildparams will not work either, and says so
	}
	properties := map[string]json.RawMessage{"target": document.Properties["target"]}
	maps.Copy(properties, more)
	schema := map[string]any{
		"$schema": "http://json-schema.org/draft-07/schema#", "type": "object",
		"additionalProperties": false, "required": []string{"target"}, "properties": properties,
	}
	if len(document.Definitions) > 0 {
		schema["definitions"] = document.Definitions
	}
	data, err := json.Marshal(schema)
	if err != nil {
		return json.RawMessage(`{"type": "object"}`)
	}
	return data
}

// tags runs an operation on the tags of a target.
func (p *Plugin) tags(ctx context.Context, req plugin.Request, emit plugin.Sink,
	operate func(context.Context, *job, tags) (any, error)) (json.RawMessage, error) {
	settings, err := decodeSettings(req)
	if err != nil {
		return nil, err
	}
	which, target, err := decodeTags(req)
	if err != nil {
		return nil, err
	}
	if settings.Owner == "" {
		return nil, fault.New(fault.Invalid, "%s: the settings name no owner", req.Operation).WithHint("tags that are nobody's are left alone")
	}
	j, err := newJob(&buildparams.Document{Target: *target}, settings, req.WorkDir, emit, p.now)
	if err != nil {
		return nil, err
	}
	defer j.close()
	ctx, release := j.lease.hold(ctx)
	defer release()
	out, err := operate(ctx, j, which)
	return encode(out, ended(ctx, err))
}

func decodeTags(req plugin.Request) (tags, *buildparams.Target, error) {
	which := tags{Removal: removalDelete}
	what := "inputs of " + req.Operation
	decoder := json.NewDecoder(bytes.NewReader(req.Inputs))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&which); err != nil {
		return which, nil, fault.InvalidInput(what, []fault.Problem{{Message: err.Error()}})
	}
	var problems []fault.Problem
	var target *buildparams.Target
	if len(which.Target) == 0 {
		problems = append(problems, fault.Problem{Pointer: "/target", Message: "is missing"})
	} else {
		var err error
		if target, err = buildparams.DecodeTarget(which.Target, "target"); err != nil {
			f := fault.As(err)
			if f.Kind != fault.Invalid {
				return which, nil, err
			}
			for _, p := range f.Problems {
				p.Pointer = "/target" + p.Pointer
				problems = append(problems, p)
			}
		}
	}
	if which.Removal != removalDelete && which.Removal != removalKeep {
		problems = append(problems, fault.Problem{Pointer: "/removal", Message: fmt.Sprintf("is %q", which.Removal), Hint: "it is " + removalDelete + " or " + removalKeep})
	}
	return which, target, fault.InvalidInput(what, problems)
}

// eachTag does something with all tags of the target, side by side. One that fails stops none of the others.
func (j *job) eachTag(do func(int, *variant) error) []error {
	failures := make([]error, len(j.variants))
	var group errgroup.Group
	group.SetLimit(defaultParallel)
	for i, v := range j.variants {
		group.Go(func() error {
			failures[i] = do(i, v)
			return nil
		})
	}
	_ = group.Wait()
	return failures
}

// errNotOurs is a tag that names what we have not built, or what nobody can tell of.
var errNotOurs = errors.New("not ours")

// ours asks what a tag names: the digest, if every platform of it carries the owner's label, or errNotOurs. A tag that is not
// there is an error of kind NotFound.
func (j *job) ours(ctx context.Context, v *variant) (string, error) {
	digest, err := j.registry.Digest(ctx, v.ref)
	if err != nil {
		return "", err
	}
	image, err := j.registry.Inspect(ctx, v.repository+"@"+digest, nil)
	switch kind := fault.KindOf(err); {
	case kind == fault.NotFound || kind == fault.Invalid: // something of it is missing, or it is no image
		return digest, errNotOurs
	case err != nil:
		return digest, err
	case !isOwned(image, j.settings.Owner):
		return digest, errNotOurs
	}
	return digest, nil
}

// ownership says whose the images are, where the settings do.
func (j *job) ownership() map[string]string {
	if j.settings.Owner == "" {
		return nil
	}
	return map[string]string{contentkey.OwnerLabel: j.settings.Owner}
}

// isOwned tells whether an image is the owner's on every platform: built as the owner's, and not on the owner's.
func isOwned(image *registry.Image, owner string) bool {
	for _, p := range image.Platforms {
		if p.Labels[contentkey.OwnerLabel] != owner || p.Annotations[contentkey.OwnerLabel] != owner {
			return false
		}
	}
	return len(image.Platforms) > 0
}

// noteStranger tells of an image that is what the node would have built, but was pushed by somebody else.
func (j *job) noteStranger(v *variant, there *registry.Image) {
	if owner := j.settings.Owner; owner != "" && !isOwned(there, owner) {
		j.emit.Note(event.Info, v.ref+": somebody else has pushed this image: it stays when this node goes")
	}
}

// tagSummary is the error of the whole: that of the one tag that failed, which it names itself, or what failed out of how many.
func (j *job) tagSummary(did string, failures []error) error {
	failed := slices.DeleteFunc(slices.Clone(failures), func(err error) bool { return err == nil })
	if len(failed) == 1 {
		return fault.As(failed[0])
	}
	return j.summary("tags "+did, failures)
}
