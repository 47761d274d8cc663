package engine

import (
	"context"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/gitutil"
	"github.com/opencontainers/go-digest"

	"imagebuilder/internal/fault"
)

// reach says where the daemon may be sent to.
type reach struct {
	may     func(ctx context.Context, host string) error // nil: everywhere
	refused atomic.Pointer[error]                        // the daemon passes on an error's text, and this is the error
}

// guard looks at what the frontend asks a client's daemon to fetch.
func (r *reach) guard(c gateway.Client) gateway.Client {
	if r.may == nil {
		return c
	}
	return reachGuard{c, r}
}

// reachGuard looks at what the frontend asks the daemon to fetch, before the daemon hears of it. At that place arguments are
// expanded and ONBUILD is in, so nothing in a Dockerfile gets past it.
type reachGuard struct {
	gateway.Client
	reach *reach
}

// Solve passes a request on if all of its sources may be reached.
func (g reachGuard) Solve(ctx context.Context, req gateway.SolveRequest) (*gateway.Result, error) {
	if req.Frontend != "" {
		return nil, fault.New(fault.Denied, "this service builds with its own Dockerfile frontend only, not with %s", req.Frontend)
	}
	definitions := []*pb.Definition{req.Definition}
	for _, input := range req.FrontendInputs {
		definitions = append(definitions, input)
	}
	for _, definition := range definitions {
		for _, data := range definition.GetDef() {
			var op pb.Op
			if err := op.Unmarshal(data); err != nil {
				return nil, fault.New(fault.Internal, "read an operation of the frontend: %w", err)
			}
			if err := g.check(ctx, op.GetSource()); err != nil {
				return nil, err
			}
		}
	}
	return g.Client.Solve(ctx, req)
}

// ResolveSourceMetadata passes a question about a source on if it may be reached.
func (g reachGuard) ResolveSourceMetadata(ctx context.Context, op *pb.SourceOp, opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	if err := g.check(ctx, op); err != nil {
		return nil, err
	}
	return g.Client.ResolveSourceMetadata(ctx, op, opt)
}

// ResolveImageConfig does the same for an image's configuration.
func (g reachGuard) ResolveImageConfig(ctx context.Context, ref string, opt sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	if opt.OCILayoutOpt == nil {
		if err := g.checkImage(ctx, ref); err != nil {
			return "", "", nil, err
		}
	}
	return g.Client.ResolveImageConfig(ctx, ref, opt)
}

// check asks for a host, and remembers a refusal.
func (r *reach) check(ctx context.Context, host string) error {
	err := r.may(ctx, host)
	if err != nil {
		r.refused.CompareAndSwap(nil, &err)
	}
	return err
}

func (g reachGuard) check(ctx context.Context, source *pb.SourceOp) error {
	if source == nil {
		return nil
	}
	identifier := source.GetIdentifier()
	scheme, rest, _ := strings.Cut(identifier, "://")
	switch scheme {
	case "local", "oci-layout", "oci-layout+blob":
		return nil // from our own session
	case "docker-image", "docker-image+blob":
		return g.checkImage(ctx, rest)
	case "http", "https":
		u, err := url.Parse(identifier)
		if err != nil || u.Host == "" {
			return fault.New(fault.Invalid, "the Dockerfile names a URL without a host")
		}
		return g.reach.check(ctx, u.Host)
	case "git":
		full := source.GetAttrs()[pb.AttrFullRemoteURL]
		if full == "" {
			full = identifier
		}
		u, err := gitutil.ParseURL(full)
		if err != nil || u.Host == "" {
			return fault.New(fault.Invalid, "the Dockerfile names a git repository without a host")
		}
		return g.reach.check(ctx, u.Host)
	}
	return fault.New(fault.Denied, "the Dockerfile has the engine fetch from a source of the kind %s, which this service does not", scheme)
}

func (g reachGuard) checkImage(ctx context.Context, ref string) error {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return fault.New(fault.Invalid, "image %s: %w", ref, err)
	}
	return g.reach.check(ctx, reference.Domain(named))
}
