package engine

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"io/fs"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/platforms"
	bk "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/frontend/dockerfile/builder"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/staticfs"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tonistiigi/fsutil"
	fstypes "github.com/tonistiigi/fsutil/types"

	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
)

const (
	dockerfileName = "Dockerfile"
	// digestKey is where an exporter's response has the digest (moby/buildkit exporter/containerimage/exptypes).
	digestKey = "containerimage.digest"
	// solveTries is how often a solve is tried whose push met a passing trouble. The build itself is
	// cached by then, so a further try costs about 0.1 s.
	solveTries = 3
	solvePause = 300 * time.Millisecond
)

type buildKitSession struct {
	engine *BuildKit
	source Source
	shared *session.Session
	attach []session.Attachable
	logs   *logFilter
	close  func() error
}

func (s *buildKitSession) Close() error { return s.close() }

// Build runs BuildKit's Dockerfile frontend in this process, so that a Dockerfile means the same whatever
// version the daemon has, and exports the result.
func (s *buildKitSession) Build(ctx context.Context, v Variant, emit event.Sink) (*Image, error) {
	var image *Image
	var err error
	for try := 1; ; try++ {
		image, err = s.solve(ctx, v, emit)
		if err == nil || try == solveTries || !passing(err) || ctx.Err() != nil {
			return image, err
		}
		emit.Note(event.Warning, v.Name+": "+firstLine(err.Error())+"; trying again")
		select {
		case <-time.After(time.Duration(try)*solvePause + rand.N(solvePause)): // spreads clients out; nothing to guess
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *buildKitSession) solve(ctx context.Context, v Variant, emit event.Sink) (*Image, error) {
	start := time.Now()
	record := newRecorder(group(v), s.logs, emit)
	status := make(chan *bk.SolveStatus)
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for st := range status {
			record.status(st)
		}
	}()
	reach := &reach{may: s.source.MayReach}
	response, err := s.engine.client.Build(ctx, s.options(v), "image-builder", func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		result, err := (&sourceSpy{Client: ownFiles{reach.guard(c), s.source}, record: record}).build(ctx, v, builder.Build)
		if err == nil {
			err = s.engine.Turns.inTurn(ctx, result, record)
		}
		return result, err
	}, status)
	<-drained
	record.packed()
	if err != nil {
		if refused := reach.refused.Load(); refused != nil && ctx.Err() == nil {
			return nil, fault.Wrap(*refused, "build %s", v.Name)
		}
		return nil, s.failure(ctx, v, record, err)
	}
	dgst, err := digest.Parse(response.ExporterResponse[digestKey])
	if err != nil {
		return nil, fault.New(fault.Internal, "build %s: the daemon answered without a digest", v.Name)
	}
	push := record.pushTime()
	return &Image{Digest: dgst, Sources: record.sources(), Build: time.Since(start) - push, Push: push}, nil
}

// group is what the variant's steps are shown under: its name without the registry, which all have in common.
func group(v Variant) string {
	if _, name, ok := strings.Cut(v.Name, "/"); ok {
		return name
	}
	return v.Name
}

// options turn a variant into BuildKit's terms.
func (s *buildKitSession) options(v Variant) bk.SolveOpt {
	opt := bk.SolveOpt{
		FrontendAttrs:         frontendAttrs(v),
		SharedSession:         s.shared,
		SessionPreInitialized: true,
		Exports:               []bk.ExportEntry{s.engine.export(v)},
		CacheExports:          cacheEntries(v.CacheTo),
		CacheImports:          cacheEntries(v.CacheFrom),
		Internal:              s.engine.NoHistory,
	}
	if v.Layout != "" {
		// An exporter's store belongs to a session, so each layout has one of its own. The shared key
		// is the same, so the context is not sent again.
		opt.SharedSession, opt.SessionPreInitialized = nil, false
		opt.SharedKey, opt.Session = s.source.ContextKey, s.attach
		opt.OCIStores = baseStores(s.source)
		opt.Exports = []bk.ExportEntry{{Type: bk.ExporterOCI, OutputDir: v.Layout, Attrs: imageAttrs(v, map[string]string{
			"tar": "false",
		})}}
	}
	return opt
}

// pushByDigest has the daemon push an image without a tag.
func pushByDigest(v Variant) bk.ExportEntry {
	return bk.ExportEntry{Type: bk.ExporterImage, Attrs: imageAttrs(v, map[string]string{
		"name": v.Repository, "push": "true", "push-by-digest": "true",
		"registry.insecure": strconv.FormatBool(v.Insecure),
	})}
}

func frontendAttrs(v Variant) map[string]string {
	attrs := map[string]string{
		"filename": dockerfileName,
		"platform": FormatPlatforms(v.Platforms),
		// A "# syntax=" line would pull another frontend; the frontend that runs is ours. BuildKit skips
		// the line when this attribute, which it sets on that other frontend, is there already.
		"cmdline": "image-builder",
	}
	for _, o := range v.Overrides {
		attrs["context:"+o.Key] = contextOf(o)
	}
	for k, value := range v.BuildArgs {
		attrs["build-arg:"+k] = value
	}
	for k, value := range v.Labels {
		attrs["label:"+k] = value
	}
	if v.Epoch != nil {
		attrs["build-arg:SOURCE_DATE_EPOCH"] = strconv.FormatInt(v.Epoch.Unix(), 10)
	}
	if v.Stage != "" {
		attrs["target"] = v.Stage
	}
	if v.NoCache {
		attrs["no-cache"] = ""
	}
	if v.Index {
		attrs["multi-platform"] = "true"
	}
	return attrs
}

// FormatPlatforms joins platforms with commas, as in "linux/amd64,linux/arm/v7".
func FormatPlatforms(ps []ocispecs.Platform) string {
	names := make([]string, len(ps))
	for i, p := range ps {
		names[i] = platforms.Format(p)
	}
	return strings.Join(names, ",")
}

// dockerfileFS is a folder with the Dockerfile and, if it has one of its own, its ignore file.
func dockerfileFS(src Source) fsutil.FS {
	files := exactFS{staticfs.NewFS()}
	add := func(name string, data []byte) {
		files.Add(name, &fstypes.Stat{Mode: 0o644, ModTime: contentTime(data)}, data)
	}
	add(dockerfileName, src.Dockerfile)
	if src.Dockerignore != nil {
		add(dockerfileName+".dockerignore", src.Dockerignore)
	}
	return files
}

// exactFS walks to the file that is asked for only: staticfs also visits those whose names begin like it.
type exactFS struct{ *staticfs.FS }

// Walk visits the files at and below target.
func (e exactFS) Walk(ctx context.Context, target string, fn fs.WalkDirFunc) error {
	target = strings.Trim(target, "/")
	return e.FS.Walk(ctx, target, func(name string, entry fs.DirEntry, err error) error {
		if target != "" && name != target && !strings.HasPrefix(name, target+"/") {
			return nil
		}
		return fn(name, entry, err)
	})
}

// contentTime makes a time (Unix, nanoseconds) of content, because BuildKit takes a file of equal name,
// size and time for the one that it has.
func contentTime(data []byte) int64 {
	sum := sha256.Sum256(data)
	const year2000, century = 946684800e9, 3155760000e9 // nanoseconds
	return year2000 + int64(binary.BigEndian.Uint64(sum[:8])%century)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
