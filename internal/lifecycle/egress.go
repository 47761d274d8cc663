package lifecycle

import (
	"context"

	"github.com/distribution/reference"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/egress"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
)

// guardOf is the guard that the settings ask for; nil when there is none.
func guardOf(settings *result.Egress) (*egress.Guard, error) {
	if settings == nil {
		return nil, nil
	}
	allow, err := egress.Parse(settings.Allow)
	if err != nil {
		return nil, fault.Wrap(err, "settings: egress")
	}
	return egress.New(settings.Refuse, allow), nil
}

// engineMayReach refuses hosts to the engine's daemon, which looks names up and follows redirects as it likes; what it
// does after it was sent somewhere is for its own network to bound.
func (j *job) engineMayReach() func(context.Context, string) error {
	if !j.egress.Refuses() {
		return nil
	}
	return j.egress.For("the engine").CheckHost
}

// keepFromEngine tells whether the engine's daemon is kept away from a registry, so that pulls and pushes go through our own
// guarded hands: from every one that the operator has neither allowed by its address nor named in the settings.
func (j *job) keepFromEngine(image string) bool {
	host := registryOf(image)
	_, named := j.settings.Registries[host]
	return j.egress.Refuses() && !named && !j.egress.Vouched(host)
}

// registryOf is the host of an image's registry, "" when the image is not one.
func registryOf(image string) string {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return ""
	}
	return reference.Domain(named)
}

// checkCache refuses a registry that the engine's daemon would read and write a build cache in.
func (j *job) checkCache(ctx context.Context) error {
	cache := j.doc.Options.Cache
	if !j.egress.Refuses() || cache == nil || cache.Mode == buildparams.CacheOff {
		return nil
	}
	image := cache.Ref
	if image == "" || cache.Mode == buildparams.CacheInline {
		image = j.doc.Repository(0)
	}
	return j.egress.For("the build cache").CheckHost(ctx, registryOf(image))
}
