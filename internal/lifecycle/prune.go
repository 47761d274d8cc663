package lifecycle

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
)

// pruneInputs is the schema of the inputs of prune_cache.
const pruneInputs = `{
  "type": "object", "additionalProperties": false, "required": ["build_params"],
  "properties": {
    "build_params": {"type": "object", "description": "The document whose caches are meant."},
    "scope": {"type": "string", "description": "Only caches of this scope."},
    "older_than": {"type": "string", "description": "Only caches whose newest step is older than this, as in 168h."}
  }
}`

// prune says which caches are removed: those that all that is set holds for.
type prune struct {
	Document  json.RawMessage      `json:"build_params"`
	Scope     string               `json:"scope"`
	OlderThan buildparams.Duration `json:"older_than"`
}

func decodePrune(inputs json.RawMessage) (prune, error) {
	var p prune
	if err := json.Unmarshal(inputs, &p); err != nil {
		return p, fault.InvalidInput("inputs of "+PruneCache, []fault.Problem{{Message: err.Error()}})
	}
	if len(p.Document) == 0 {
		return p, fault.InvalidInput("inputs of "+PruneCache, []fault.Problem{{Pointer: "/build_params", Message: "is missing"}})
	}
	return p, nil
}

// pruneCache removes build caches from the repositories that the document's images have theirs in.
func (j *job) pruneCache(ctx context.Context, which prune) (any, error) {
	out := &result.Pruned{Removed: []string{}}
	for _, repository := range j.cacheRepositories() {
		tags, err := j.registry.Tags(ctx, repository)
		if fault.KindOf(err) == fault.NotFound {
			continue // nothing was ever pushed there
		}
		if err != nil {
			return out, err
		}
		var chosen []string
		for _, tag := range tags {
			if strings.HasPrefix(tag, cachePrefix) && (which.Scope == "" || tagOfScope(tag, which.Scope)) {
				chosen = append(chosen, repository+":"+tag)
			}
		}
		old, err := j.olderThan(ctx, chosen, time.Duration(which.OlderThan))
		if err != nil {
			return out, err
		}
		out.Kept += len(chosen) - len(old)
		for _, ref := range old {
			if err := j.registry.DeleteTag(ctx, ref); err != nil {
				return out, err
			}
			out.Removed = append(out.Removed, ref)
		}
	}
	return out, nil
}

// cacheRepositories are where the document's caches are.
func (j *job) cacheRepositories() []string {
	var all []string
	for _, v := range j.variants {
		repository := v.repository
		if cache := j.doc.Options.Cache; cache != nil && cache.Ref != "" {
			repository = cache.Ref
		}
		all = append(all, repository)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// tagOfScope tells whether a cache's tag is one of a scope: the scope and a variant's hash, nothing between them.
func tagOfScope(tag, scope string) bool {
	hash, ok := strings.CutPrefix(tag, scopeTag(scope)+"-")
	return ok && !strings.ContainsAny(hash, "-.")
}

// olderThan leaves of some caches those whose newest step is older than an age; all, when the age is zero.
func (j *job) olderThan(ctx context.Context, refs []string, age time.Duration) ([]string, error) {
	if age <= 0 {
		return refs, nil
	}
	limit := j.now().Add(-age)
	old := make([]bool, len(refs))
	group, each := errgroup.WithContext(ctx)
	group.SetLimit(defaultParallel)
	for i, ref := range refs {
		group.Go(func() error {
			newest, err := j.registry.CacheTime(each, ref)
			old[i] = err == nil && newest.Before(limit)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var chosen []string
	for i, ref := range refs {
		if old[i] {
			chosen = append(chosen, ref)
		}
	}
	return chosen, nil
}
