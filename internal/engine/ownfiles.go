package engine

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/moby/buildkit/client/llb"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/tonistiigi/fsutil"
	fstypes "github.com/tonistiigi/fsutil/types"
)

const (
	// localScheme starts a source operation's identifier that is a folder of the client's session.
	localScheme = "local://"
	// ignoreName is the ignore file of a context.
	ignoreName = ".dockerignore"
)

// ownFiles answers what the frontend asks the daemon about files that are in this process anyway: the Dockerfile, which would
// travel to the daemon and back, and the context's ignore file. Each is a solve of its own, one after the other, and together they
// take as long as everything else of a build in which all is cached.
type ownFiles struct {
	gateway.Client
	source Source
}

// Solve passes on all but the two.
func (o ownFiles) Solve(ctx context.Context, req gateway.SolveRequest) (*gateway.Result, error) {
	files, ours, err := o.asked(ctx, req)
	if err != nil || !ours {
		if err != nil {
			return nil, err
		}
		return o.Client.Solve(ctx, req)
	}
	out := gateway.NewResult()
	out.SetRef(memory(files))
	return out, nil
}

// asked are the files that a request is about, if it is about ours alone.
func (o ownFiles) asked(ctx context.Context, req gateway.SolveRequest) (files map[string][]byte, ours bool, err error) {
	source := onlySource(req.Definition)
	if source == nil || req.Frontend != "" {
		return nil, false, nil
	}
	switch {
	case source.GetIdentifier() == localScheme+"dockerfile":
		files = map[string][]byte{dockerfileName: o.source.Dockerfile}
		if o.source.Dockerignore != nil {
			files[dockerfileName+ignoreName] = o.source.Dockerignore
		}
		return files, true, nil
	case source.GetIdentifier() == localScheme+"context" && source.GetAttrs()[pb.AttrFollowPaths] == `["`+ignoreName+`"]`:
		return ignoreFile(ctx, o.source.Context)
	}
	return nil, false, nil
}

// onlySource is the source that a definition consists of, nil when there is more to it.
func onlySource(def *pb.Definition) *pb.SourceOp {
	if def == nil {
		return nil
	}
	var source *pb.SourceOp
	for _, data := range def.Def {
		var op pb.Op
		if err := op.Unmarshal(data); err != nil {
			return nil
		}
		switch {
		case op.GetOp() == nil: // the end, which names the result
		case op.GetSource() != nil && source == nil:
			source = op.GetSource()
		default:
			return nil
		}
	}
	return source
}

// ignoreFile reads a context's ignore file. A link is left to the daemon, which follows it as it does for every client.
func ignoreFile(ctx context.Context, tree fsutil.FS) (map[string][]byte, bool, error) {
	regular, there := false, false
	err := tree.Walk(ctx, ignoreName, func(name string, entry fs.DirEntry, err error) error {
		if err == nil && name == ignoreName {
			regular, there = entry.Type().IsRegular(), true
		}
		return err
	})
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && !there:
		return nil, true, nil
	case err != nil || !regular:
		return nil, false, nil
	}
	file, err := tree.Open(ignoreName)
	if err != nil {
		return nil, false, err
	}
	defer file.Close()
	data, err := io.ReadAll(file)
	return map[string][]byte{ignoreName: data}, true, err
}

// memory is a reference to files in this process.
type memory map[string][]byte

// ReadFile gives a file, or the part of it that is asked for.
func (m memory) ReadFile(_ context.Context, req gateway.ReadRequest) ([]byte, error) {
	data, err := m.file(req.Filename)
	if err != nil || req.Range == nil {
		return data, err
	}
	data = data[min(max(req.Range.Offset, 0), len(data)):]
	if length := req.Range.Length; length > 0 {
		data = data[:min(length, len(data))]
	}
	return data, nil
}

// StatFile tells a file's size.
func (m memory) StatFile(_ context.Context, req gateway.StatRequest) (*fstypes.Stat, error) {
	data, err := m.file(req.Path)
	if err != nil {
		return nil, err
	}
	return &fstypes.Stat{Path: req.Path, Mode: 0o644, Size: int64(len(data))}, nil
}

func (m memory) file(name string) ([]byte, error) {
	if data, ok := m[name]; ok {
		return data, nil
	}
	return nil, &os.PathError{Op: "open", Path: name, Err: syscall.ENOENT}
}

// Evaluate has nothing to do.
func (m memory) Evaluate(context.Context) error { return nil }

// ReadDir and ToState are not what a frontend asks of an ignore file or a Dockerfile.
func (m memory) ReadDir(context.Context, gateway.ReadDirRequest) ([]*fstypes.Stat, error) {
	return nil, errors.ErrUnsupported
}

// ToState is not asked either.
func (m memory) ToState() (llb.State, error) { return llb.State{}, errors.ErrUnsupported }
