package engine

import (
	"context"
	"net"
	"strconv"
	"strings"
	"time"

	docker "github.com/docker/docker/client"
	controlapi "github.com/moby/buildkit/api/services/control"
	bk "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/identity"

	"imagebuilder/internal/fault"
)

// Docker is the BuildKit inside a Docker Engine, from 20.10 on.
//
// What it can do with an image depends on the Engine's image store, which is asked for once. With containerd's, it
// pushes like any BuildKit daemon. With the old one it can only keep the image for itself: it comes to us as a
// layout, and the caller pushes it.
type Docker struct {
	*BuildKit
	api   *docker.Client
	ships shipping
}

// shipping is how an image gets out of an Engine.
type shipping int

const (
	shipNothing    shipping = iota
	shipPush                // the Engine pushes by digest
	shipLayout              // it writes OCI layouts
	shipFromImages          // it has just its old image store, and `docker save`
)

// DialDocker connects to the Engine at host, as DOCKER_HOST has it. Without one it takes the Engine that the docker
// command would: by DOCKER_HOST, DOCKER_CONTEXT, the current context, or at the usual socket. It waits until
// the Engine answers.
func DialDocker(ctx context.Context, host string) (*Docker, error) {
	at, err := findDocker(host)
	if err != nil {
		return nil, err
	}
	api, err := at.client()
	if err != nil {
		return nil, fault.New(fault.Invalid, "docker at %s: %w", at.host, err)
	}
	client, err := bk.New(ctx, "",
		bk.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return api.DialHijack(ctx, "/grpc", "h2c", nil)
		}),
		bk.WithSessionDialer(func(ctx context.Context, proto string, meta map[string][]string) (net.Conn, error) {
			return api.DialHijack(ctx, "/session", proto, meta)
		}))
	if err != nil {
		_ = api.Close()
		return nil, fault.New(fault.Internal, "docker at %s: %w", at.host, err)
	}
	d := &Docker{api: api, BuildKit: &BuildKit{
		name: "docker", address: at.host, client: client, release: func() { _ = api.Close() },
	}}
	if err := d.prepare(ctx); err != nil {
		_ = d.Close()
		return nil, err
	}
	return d, nil
}

// prepare asks the Engine what it is.
func (d *Docker) prepare(ctx context.Context) error {
	within, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	// The first question to the plain API: its errors say more than those of gRPC through a hijacked connection.
	if _, err := d.api.Ping(within); err != nil {
		return d.silent(ctx, err)
	}
	if err := d.ask(ctx); err != nil {
		return d.silent(ctx, err)
	}
	ships, err := d.probe(within)
	if err != nil {
		return d.silent(ctx, err)
	}
	d.ships = ships
	switch ships {
	case shipPush:
		d.export = pushUnnamed
	case shipLayout:
		d.export = pushByDigest // not used: every variant has a layout
	case shipFromImages:
		d.export = keepInEngine
	}
	return nil
}

// silent is the error of an Engine that does not answer, or not as it should.
func (d *Docker) silent(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	f := fault.New(fault.Unavailable, "docker at %s does not answer: %w", d.address, err).
		WithHint("does `docker version` reach an Engine? See DOCKER_HOST and docker context ls")
	if strings.Contains(strings.ToLower(err.Error()), "permission denied") {
		f.Kind = fault.Denied
		f.Hint = "may this user use the Engine's socket? Members of its group, usually docker, may"
		if strings.HasPrefix(d.address, "ssh://") {
			f.Hint = "does ssh log in there without asking anything, and may that user run docker?"
		}
	}
	return f
}

// Version is the Engine's own version, "" when it does not tell. Nothing depends on it.
func (d *Docker) Version(ctx context.Context) string {
	v, err := d.api.ServerVersion(ctx)
	if err != nil {
		return ""
	}
	return v.Version
}

// Pushes tells whether the Engine pushes images itself.
func (d *Docker) Pushes() bool { return d.ships == shipPush }

// Open prepares the builds of a source.
func (d *Docker) Open(ctx context.Context, src Source) (Session, error) {
	session, err := d.BuildKit.Open(ctx, src)
	if err != nil || d.ships != shipFromImages {
		return session, err
	}
	if err := sweep(ctx, d.api, time.Now()); err != nil {
		_ = session.Close()
		return nil, err
	}
	return &imageStoreSession{
		buildKitSession: session.(*buildKitSession), api: d.api, squeezed: map[squeezing]*squeezedLayer{},
	}, nil
}

// probeName is the name that the probe gives to an image that is never made. The domain exists nowhere (RFC 6761).
const probeName = "image-builder.invalid/probe"

// danglingPrefix is the exporter's attribute that names an image without a name: NAME@DIGEST.
const danglingPrefix = "dangling-name-prefix"

// probe exports an image of nothing to nowhere, which shows what the Engine's exporter is.
func (d *Docker) probe(ctx context.Context) (shipping, error) {
	nothing, err := llb.Scratch().File(llb.Mkdir("/probe", 0o755)).Marshal(ctx)
	if err != nil {
		return shipNothing, err
	}
	// Straight to the API: the client's own Solve waits for some seconds for the status of a build that was refused.
	attrs := map[string]string{danglingPrefix: probeName, "store": "false", "push": "false"}
	answer, err := d.client.ControlClient().Solve(ctx, &controlapi.SolveRequest{
		Ref: identity.NewID(), Definition: nothing.ToPB(), Internal: true, Cache: &controlapi.CacheOptions{},
		Exporters: []*controlapi.Exporter{{Type: bk.ExporterImage, Attrs: attrs}},
		// The same for daemons that know of one exporter only.
		ExporterDeprecated: bk.ExporterImage, ExporterAttrsDeprecated: attrs,
	})
	switch {
	case err == nil && strings.HasPrefix(answer.ExporterResponse["image.name"], probeName+"@"):
		return shipPush, nil
	case err == nil:
		// It would put a name of its own in the place of ours, and push to that.
		return shipLayout, nil
	case strings.Contains(err.Error(), `exporter "image" could not be found`):
		return shipFromImages, nil
	default:
		return shipNothing, err
	}
}

// pushUnnamed has an Engine with containerd's image store push an image without a tag. An Engine adds ":latest" to every
// name, which goes against push-by-digest (moby/moby builder-next/exporter/overrides). It leaves the name of an image
// that has none alone, and NAME@DIGEST is pushed by the digest.
func pushUnnamed(v Variant) bk.ExportEntry {
	return bk.ExportEntry{Type: bk.ExporterImage, Attrs: imageAttrs(v, map[string]string{
		danglingPrefix: v.Repository, "push": "true", "store": "false",
		"registry.insecure": strconv.FormatBool(v.Insecure),
	})}
}

// keepInEngine leaves an image of one platform in the Engine's old image store, under the variant's repository.
func keepInEngine(v Variant) bk.ExportEntry {
	return bk.ExportEntry{Type: "moby", Attrs: map[string]string{"name": v.Repository}}
}
