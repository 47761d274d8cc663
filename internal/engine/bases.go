package engine

import (
	"context"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/distribution/reference"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"

	"imagebuilder/internal/fault"
)

const (
	// basesStore is the name that the daemon knows Source.Bases by.
	basesStore = "bases"
	// layoutScheme starts a source operation's identifier that is an image in such a store.
	layoutScheme = "oci-layout://"
)

// baseStores are the stores of a session of its own, by name.
func baseStores(src Source) map[string]content.Store {
	if src.Bases == nil {
		return nil
	}
	return map[string]content.Store{basesStore: src.Bases}
}

// contextOf is an override as the frontend's named context.
func contextOf(o Override) string {
	switch {
	case o.loaded != "":
		return imageScheme + o.loaded
	case !o.FromBases:
		return imageScheme + o.Ref
	}
	_, digest, _ := strings.Cut(o.Ref, "@")
	return layoutScheme + basesStore + "@" + digest
}

// takesBases makes sure that the daemon can be given the variant's overrides.
func takesBases(v Variant, c gateway.Client) error {
	for _, o := range v.Overrides {
		llb := c.BuildOpts().LLBCaps
		if o.FromBases && o.loaded == "" && llb.Supports(pb.CapSourceOCILayout) != nil {
			return fault.New(fault.Invalid, "build %s: this engine is too old to be given the base %s, which it cannot pull itself", v.Name, o.Ref).
				WithHint("let the engine's daemon trust that registry, or use a BuildKit daemon or the managed engine")
		}
	}
	return nil
}

// servedBases are the images of Source.Bases that a variant uses, by the reference that BuildKit has for them: what
// they replace, at their digest.
func servedBases(v Variant) map[string]string {
	served := map[string]string{}
	for _, o := range v.Overrides {
		if o.loaded != "" {
			served[o.loaded] = o.Ref
			continue
		}
		named, err := reference.ParseNormalizedNamed(o.Key)
		_, digest, ok := strings.Cut(o.Ref, "@")
		if o.FromBases && err == nil && ok {
			served[withoutDigest(named.String())+"@"+digest] = o.Ref
		}
	}
	return served
}

func withoutDigest(ref string) string {
	name, _, _ := strings.Cut(ref, "@")
	return name
}

// pulledImage is the pinned image that a source operation asks for, "" when it is for something else.
func (s *sourceSpy) pulledImage(identifier string) string {
	if ref, ok := strings.CutPrefix(identifier, imageScheme); ok {
		if base := s.served[withoutDigest(ref)]; base != "" {
			return base
		}
		return ref
	}
	if ref, ok := strings.CutPrefix(identifier, layoutScheme); ok {
		return s.served[ref]
	}
	return ""
}

// build runs the frontend.
func (s *sourceSpy) build(ctx context.Context, v Variant, run func(context.Context, gateway.Client) (*gateway.Result, error)) (*gateway.Result, error) {
	if err := takesBases(v, s.Client); err != nil {
		return nil, err
	}
	s.served = servedBases(v)
	return run(ctx, s)
}
