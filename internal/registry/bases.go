package registry

import (
	"context"
	"fmt"
	"strings"

	"github.com/distribution/reference"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
)

// InspectBase is Inspect for an image that something is to be built on: the mirrors of its registry are asked first, in their
// order, and the registry itself last. The image's At says where it was found.
//
// A mirror that has not got the image, does not let us have it or does not answer is passed over, the last two with a warning; one whose
// certificate is not trusted, or that serves nonsense, is an error: somebody has to mend that.
func (c *Client) InspectBase(ctx context.Context, ref string, wanted []ocispecs.Platform) (*Image, error) {
	return c.firstPlace(ctx, ref, func(i *image) (*Image, error) { return i.inspect(ctx, wanted) })
}

// ResolveBase is Resolve for an image that something is to be built on; see InspectBase.
func (c *Client) ResolveBase(ctx context.Context, ref string) (*Image, error) {
	return c.firstPlace(ctx, ref, func(i *image) (*Image, error) {
		found, _, err := i.resolve(ctx)
		return found, i.fail(ctx, "resolve "+i.text, err)
	})
}

// HasMirrors tells whether the configuration names mirrors of an image's registry.
func (c *Client) HasMirrors(ref string) bool {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return false
	}
	s := c.sites[canonicalHost(reference.Domain(named))]
	return s != nil && len(s.mirrors) > 0
}

// places are where an image may be had, in the order in which they are to be asked.
func (c *Client) places(text string) ([]*image, error) {
	own, err := c.parse(text)
	if err != nil {
		return nil, err
	}
	var all []*image
	if s := c.sites[own.endpoint.canonical]; s != nil {
		for _, m := range s.mirrors {
			all = append(all, c.mirrored(own, m))
		}
	}
	return append(all, own), nil
}

// mirrored is the same image in a mirror.
func (c *Client) mirrored(own *image, m mirror) *image {
	repository := m.registry.Repo(m.prefix + own.ref.Context().RepositoryStr())
	img := &image{name: m.registry.RegistryStr() + "/" + repository.RepositoryStr(), endpoint: c.endpoint(m.registry)}
	identifier := own.ref.Identifier()
	if strings.Contains(identifier, ":") {
		img.ref, img.text = repository.Digest(identifier), img.name+"@"+identifier
	} else {
		img.ref, img.text = repository.Tag(identifier), img.name+":"+identifier
	}
	return img
}

// firstPlace asks one place after the other.
func (c *Client) firstPlace(ctx context.Context, ref string, ask func(*image) (*Image, error)) (*Image, error) {
	places, err := c.places(ref)
	if err != nil {
		return nil, err
	}
	var before []*fault.Error
	for n, place := range places {
		mirror := n < len(places)-1
		if mirror && place.endpoint.down.Load() {
			before = append(before, fault.New(fault.Unavailable, "%s did not answer before", place.endpoint.canonical))
			continue
		}
		found, err := ask(place)
		if err == nil {
			found.Ref, found.At = ref, place.name+"@"+found.Digest
			return found, nil
		}
		f := fault.As(err)
		if !mirror {
			return nil, nowhere(f, before)
		}
		if err := c.passOver(place, f); err != nil {
			return nil, err
		}
		before = append(before, f)
	}
	return nil, fault.New(fault.Internal, "inspect %s: nobody was asked", ref) // the registry itself always is
}

// passOver decides what comes of a mirror's failure: nothing, a warning, or an error.
func (c *Client) passOver(place *image, f *fault.Error) error {
	switch f.Kind {
	case fault.NotFound:
		return nil
	case fault.Unavailable:
		place.endpoint.down.Store(true) // who waited once need not wait for every image
	case fault.Denied:
	default:
		return f
	}
	c.config.Emit.Note(event.Warning, fmt.Sprintf("mirror %s: %s; asking elsewhere", place.endpoint.canonical, f.Message))
	return nil
}

// nowhere is the error of an image that was not had: that of its own registry, and what the mirrors said before. Where the registry
// itself is out of reach, as on a site without internet, a mirror that denies access is what has to be mended.
func nowhere(own *fault.Error, before []*fault.Error) error {
	if len(before) == 0 {
		return own
	}
	out := &fault.Error{Kind: own.Kind, Message: own.Message, Hint: own.Hint, Err: own}
	for _, f := range before {
		out.Message += "; of its mirrors: " + f.Message
		if own.Kind == fault.Unavailable && f.Kind == fault.Denied {
			out.Kind, out.Hint = f.Kind, f.Hint
		}
	}
	return out
}

// DaemonReaches tells whether a build daemon that knows nothing of our configuration can pull from, and push to, a repository, named
// registry/path[@digest], as we do ourselves. It cannot where we trust an authority of our own, or accept what is not
// safe: plain http (other than on loopback, which daemons take as we do) or any certificate.
func (c *Client) DaemonReaches(repository string) bool {
	img, err := c.parse(repository)
	if err != nil {
		return true
	}
	r := c.reach(img.endpoint.canonical)
	switch {
	case r.plain:
		return isLoopback(img.endpoint.host)
	case r.insecure && isLoopback(img.endpoint.host):
		return img.endpoint.reachedBy() == "http"
	default:
		return !r.insecure && r.roots == nil
	}
}

// DaemonPushes is DaemonReaches for a push, for which a daemon can be told that a registry is insecure.
func (c *Client) DaemonPushes(repository string) bool {
	img, err := c.parse(repository)
	if err != nil {
		return true
	}
	r := c.reach(img.endpoint.canonical)
	return r.plain || r.insecure || r.roots == nil
}

// Insecure tells whether a push to a repository may go by plain http, or to a certificate that nobody vouches for.
func (c *Client) Insecure(repository string) bool {
	img, err := c.parse(repository)
	if err != nil {
		return false
	}
	r := c.reach(img.endpoint.canonical)
	return r.plain || r.insecure
}

// AnswerFor settles what Credentials says about the host of a repository, named registry/path[@digest]: what is known for this repository,
// unless it was settled before. It tells whether the answer is right for this repository. Daemons ask for hosts
// only, and so can be given only one of several credentials.
func (c *Client) AnswerFor(ctx context.Context, repository string) (bool, error) {
	img, err := c.parse(repository)
	if err != nil {
		return false, err
	}
	host, path := img.endpoint.canonical, img.ref.Context().RepositoryStr()
	c.mu.Lock()
	settled, ok := c.answers[host]
	if !ok {
		c.answers[host], settled = path, path
	}
	c.mu.Unlock()
	if settled == path {
		return true, nil
	}
	mine, err := c.login(ctx, host, path)
	if err != nil {
		return false, err
	}
	told, err := c.login(ctx, host, settled)
	if err != nil {
		return false, err
	}
	return mine.username == told.username && mine.secret == told.secret, nil
}
