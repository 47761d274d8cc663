package awkward_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	fstypes "github.com/tonistiigi/fsutil/types"

	"imagebuilder/internal/dockerfile"
	"imagebuilder/internal/dockerfile/awkward"
)

// frontend is where BuildKit's real Dockerfile frontend runs in: it answers what the frontend asks a
// daemon for, with images that are empty but for a layer, and writes down what it was asked.
type frontend struct {
	dockerfile []byte
	opts       map[string]string
	build      ocispecs.Platform

	mu       sync.Mutex
	resolved map[string]bool // "reference platform"
	pulled   map[string]bool // the same, from the LLB that would be solved
	run      map[string]bool // platforms of RUN
	runs     int             // RUN instructions in the LLB
	named    map[string]bool // "[context KEY]" of what stood in the place of another
}

// solve runs the real frontend for the query.
func solve(data []byte, q dockerfile.Query, contexts map[string]string) (*frontend, error) {
	f := &frontend{
		dockerfile: data, build: q.BuildPlatform,
		opts:     map[string]string{"platform": platforms.FormatAll(q.Platform)},
		resolved: map[string]bool{}, pulled: map[string]bool{}, run: map[string]bool{}, named: map[string]bool{},
	}
	if q.Stage != "" {
		f.opts["target"] = q.Stage
	}
	for k, v := range q.Args {
		f.opts["build-arg:"+k] = v
	}
	for k, v := range contexts {
		f.opts["context:"+k] = "docker-image://" + v
	}
	err := f.recovered()
	return f, err
}

// recovered runs the frontend; a panic in it is an error of it.
func (f *frontend) recovered() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	ctx := context.Background()
	ui, err := dockerui.NewClient(f)
	if err != nil {
		return err
	}
	source, err := ui.ReadEntrypoint(ctx, "Dockerfile")
	if err != nil {
		return err
	}
	// As builder.Build does it, but for its cache of answers, in which the race detector finds a race.
	res, err := dockerfile2llb.Dockerfile2LLB(ctx, source.Data, dockerfile2llb.ConvertOpt{
		Config: ui.Config, Client: ui, SourceMap: source.SourceMap, MetaResolver: f, TargetPlatform: &ui.TargetPlatforms[0],
	})
	if err != nil {
		return err
	}
	def, err := res.State.Marshal(ctx)
	if err != nil {
		return err
	}
	_, err = f.Solve(ctx, client.SolveRequest{Definition: def.ToPB()})
	return err
}

func (f *frontend) BuildOpts() client.BuildOpts {
	return client.BuildOpts{
		Opts: maps.Clone(f.opts), SessionID: "s",
		Workers: []client.WorkerInfo{{Platforms: []ocispecs.Platform{f.build}}},
		LLBCaps: pb.Caps.CapSet(pb.Caps.All()), Caps: gwpb.Caps.CapSet(gwpb.Caps.All()),
	}
}

func (f *frontend) Inputs(context.Context) (map[string]llb.State, error)               { return nil, nil }
func (f *frontend) Warn(context.Context, digest.Digest, string, client.WarnOpts) error { return nil }

func (f *frontend) NewContainer(context.Context, client.NewContainerRequest) (client.Container, error) {
	return nil, errors.ErrUnsupported
}

func (f *frontend) ResolveSourceMetadata(context.Context, *pb.SourceOp, sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	return nil, errors.ErrUnsupported
}

func (f *frontend) ResolveImageConfig(_ context.Context, ref string, opt sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	p := *opt.ImageOpt.Platform
	f.mu.Lock()
	defer f.mu.Unlock()
	f.resolved[ref+" "+platforms.FormatAll(platforms.Normalize(p))] = true
	if rest, ok := strings.CutPrefix(opt.LogName, "[context "); ok {
		key, _, _ := strings.Cut(rest, "]")
		f.named[key] = true
	}
	config := ocispecs.Image{Platform: p, RootFS: ocispecs.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromString(ref)}}}
	data, err := json.Marshal(config)
	return ref, "", data, err
}

func (f *frontend) Solve(_ context.Context, req client.SolveRequest) (*client.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, data := range req.Definition.GetDef() {
		var op pb.Op
		if err := op.UnmarshalVT(data); err != nil {
			return nil, err
		}
		if ref, ok := strings.CutPrefix(op.GetSource().GetIdentifier(), "docker-image://"); ok {
			f.pulled[ref+" "+platformOf(&op)] = true
		}
		if op.GetExec() != nil {
			f.run[platformOf(&op)] = true
			f.runs++
		}
	}
	res := client.NewResult()
	res.SetRef(files{f.dockerfile})
	return res, nil
}

func platformOf(op *pb.Op) string {
	p := op.GetPlatform()
	return platforms.FormatAll(platforms.Normalize(ocispecs.Platform{OS: p.GetOS(), Architecture: p.GetArchitecture(), Variant: p.GetVariant()}))
}

// files is a result of a build that holds the Dockerfile.
type files struct{ dockerfile []byte }

func (r files) ToState() (llb.State, error)    { return llb.Scratch(), nil }
func (r files) Evaluate(context.Context) error { return nil }
func (r files) ReadFile(_ context.Context, req client.ReadRequest) ([]byte, error) {
	if req.Filename == "Dockerfile" {
		return r.dockerfile, nil
	}
	return nil, fs.ErrNotExist
}
func (r files) StatFile(context.Context, client.StatRequest) (*fstypes.Stat, error) {
	return nil, fs.ErrNotExist
}
func (r files) ReadDir(context.Context, client.ReadDirRequest) ([]*fstypes.Stat, error) {
	return nil, errors.ErrUnsupported
}

// images are those that the frontend asked for and those that it would pull: an image that an ONBUILD
// is the first to need is pulled without a question, and one that a tmpfs mount names is asked for only.
func (f *frontend) images() map[string]bool {
	all := maps.Clone(f.resolved)
	maps.Copy(all, f.pulled)
	return all
}

// images is what Bases says, in the form that the frontend writes down.
func images(bases []dockerfile.Base) []string {
	set := map[string]bool{}
	for _, b := range bases {
		set[b.Ref+" "+platforms.FormatAll(b.Platform)] = true
	}
	return sorted(set)
}

func sorted(set map[string]bool) []string { return slices.Sorted(maps.Keys(set)) }

// Where BuildKit's frontend builds, Bases lists what it asks for.
func FuzzAgreement(f *testing.F) {
	for _, c := range append(awkward.Cases(), awkward.Refused()...) {
		f.Add(c.Dockerfile, "alpine:3.18", c.Stage)
	}
	f.Fuzz(func(t *testing.T, data []byte, base, stage string) {
		file, err := dockerfile.Parse("Dockerfile", data)
		if err != nil {
			return
		}
		q := dockerfile.Query{
			Platform: platforms.MustParse("linux/386"), BuildPlatform: platforms.MustParse("linux/amd64"),
			Args: map[string]string{"BASE": base, "SOURCE_DATE_EPOCH": "0"}, Stage: stage,
		}
		bases, err := file.Bases(q)
		asked, refusal := solve(data, q, nil)
		if refusal != nil {
			return
		}
		require.NoError(t, err, "refused only here")
		require.Equal(t, sorted(asked.images()), images(bases))
	})
}
