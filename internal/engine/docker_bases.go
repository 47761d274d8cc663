package engine

import (
	"archive/tar"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/util/imageutil"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"imagebuilder/internal/fault"
)

// loadedBases are images of Source.Bases in an Engine's old image store, under passing names. Its BuildKit takes none
// through a session, but prefers what has the name in that store to what a registry has.
type loadedBases struct {
	mu  sync.Mutex
	all map[string]*loadedBase // by pinned reference and platform
}

type loadedBase struct {
	once sync.Once
	name string // "" when the image has nothing for the platform
	err  error
}

func (l *loadedBases) get(key string) *loadedBase {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all == nil {
		l.all = map[string]*loadedBase{}
	}
	if l.all[key] == nil {
		l.all[key] = &loadedBase{}
	}
	return l.all[key]
}

// loadBases puts the bases that the Engine cannot pull into its store and gives the overrides that name them there: each for the
// platform that is built and for the Engine's own, on which stages may run.
func (s *imageStoreSession) loadBases(ctx context.Context, v Variant, target ocispecs.Platform) ([]Override, error) {
	var all []Override
	for _, o := range v.Overrides {
		if !o.FromBases {
			all = append(all, o)
			continue
		}
		seen := map[string]bool{}
		for _, p := range []ocispecs.Platform{target, s.engine.Platform(target)} {
			platform := platforms.FormatAll(platforms.Normalize(p))
			if seen[platform] {
				continue
			}
			seen[platform] = true
			base := s.loaded.get(o.Ref + " " + platform)
			base.once.Do(func() { base.name, base.err = s.loadBase(ctx, o.Ref, p) })
			switch {
			case base.err != nil && ctx.Err() != nil:
				return nil, context.Cause(ctx)
			case base.err != nil:
				return nil, fault.Wrap(base.err, "build %s: give the base %s to docker at %s", v.Name, o.Ref, s.engine.address)
			case base.name != "":
				one := o
				one.Key, one.loaded = o.Key+"::"+platform, base.name
				all = append(all, one)
			}
		}
	}
	return all, nil
}

// loadBase loads an image for one platform, as `docker load` does, and gives its passing name.
func (s *imageStoreSession) loadBase(ctx context.Context, ref string, p ocispecs.Platform) (string, error) {
	_, text, _ := strings.Cut(ref, "@")
	root := digest.Digest(text)
	data, err := content.ReadBlob(ctx, s.source.Bases, ocispecs.Descriptor{Digest: root})
	if err != nil {
		return "", err
	}
	mediaType, err := imageutil.DetectManifestBlobMediaType(data)
	if err != nil {
		return "", err
	}
	top := ocispecs.Descriptor{Digest: root, Size: int64(len(data)), MediaType: mediaType}
	manifest, err := images.Manifest(ctx, s.source.Bases, top, platforms.Only(p))
	if errdefs.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	name := passingNames + strconv.FormatInt(time.Now().Unix(), 10) + "-" + strings.ToLower(rand.Text()) + ":base"
	read, write := io.Pipe()
	go func() { write.CloseWithError(s.writeArchive(ctx, manifest, name, write)) }()
	answer, err := s.api.ImageLoad(ctx, read)
	if err != nil {
		_ = read.CloseWithError(err)
		return "", fault.New(fault.Unavailable, "docker load: %w", err)
	}
	defer func() { _ = answer.Body.Close() }()
	return name, loadError(answer.Body)
}

// loadError finds the error in what an Engine says while it loads.
func loadError(said io.Reader) error {
	messages := json.NewDecoder(said)
	for {
		var one struct{ Error string }
		switch err := messages.Decode(&one); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fault.New(fault.Unavailable, "docker load: %w", err)
		case one.Error != "":
			return fault.New(fault.Unavailable, "docker load: %s", one.Error)
		}
	}
}

// writeArchive writes an image in the form of `docker save`. Its layers stay compressed.
func (s *imageStoreSession) writeArchive(ctx context.Context, manifest ocispecs.Manifest, name string, to io.Writer) error {
	out := tar.NewWriter(to)
	index := []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}{{Config: manifest.Config.Digest.Encoded() + ".json", RepoTags: []string{name}}}
	written := map[string]bool{}
	add := func(path string, d ocispecs.Descriptor) error {
		if written[path] { // an image may have a layer twice
			return nil
		}
		written[path] = true
		blob, err := s.source.Bases.ReaderAt(ctx, d)
		if err != nil {
			return err
		}
		defer func() { _ = blob.Close() }()
		if err := out.WriteHeader(&tar.Header{Name: path, Mode: 0o644, Size: blob.Size()}); err != nil {
			return err
		}
		_, err = io.Copy(out, content.NewReader(blob))
		return err
	}
	for _, l := range manifest.Layers {
		path := l.Digest.Encoded() + ".tar"
		index[0].Layers = append(index[0].Layers, path)
		if err := add(path, l); err != nil {
			return err
		}
	}
	if err := add(index[0].Config, manifest.Config); err != nil {
		return err
	}
	data, err := json.Marshal(index)
	if err != nil {
		return fmt.Errorf("encode the archive's manifest: %w", err)
	}
	if err := out.WriteHeader(&tar.Header{Name: "manifest.json", Mode: 0o644, Size: int64(len(data))}); err != nil {
		return err
	}
	if _, err := out.Write(data); err != nil {
		return err
	}
	return out.Close()
}

// Close ends the session and removes the passing names of bases.
func (s *imageStoreSession) Close() error {
	err := s.buildKitSession.Close()
	s.loaded.mu.Lock()
	defer s.loaded.mu.Unlock()
	for _, base := range s.loaded.all {
		if base.name != "" {
			s.forget(context.Background(), base.name)
		}
	}
	return err
}
