package engine

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/moby/buildkit/util/converter/tarconverter"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// packing is how a layer is made ready for a registry, as BuildKit's exporter would do it.
type packing struct {
	kind  string // gzip or zstd
	level int    // 0 is the compression's own
	epoch int64  // Unix time that no file may be newer than; 0 leaves times alone
}

func packingOf(v Variant) packing {
	var p packing
	p.kind, p.level = v.compression()
	if v.Epoch != nil {
		p.epoch = v.Epoch.Unix()
	}
	return p
}

// packedLayer is a layer, ready.
type packedLayer struct {
	blob ocispecs.Descriptor
	diff digest.Digest
}

// pack adds the layer in a file to the layout.
func (l *layout) pack(ctx context.Context, from string, as packing) (packedLayer, error) {
	in, err := os.Open(from)
	if err != nil {
		return packedLayer{}, err
	}
	defer func() { _ = in.Close() }()
	out, err := os.CreateTemp(l.dir, "layer-")
	if err != nil {
		return packedLayer{}, err
	}
	defer func() { _ = os.Remove(out.Name()) }()
	packed, err := as.write(ctx, in, out)
	if err := errors.Join(err, out.Close()); err != nil {
		return packedLayer{}, err
	}
	return packed, os.Rename(out.Name(), l.path(packed.blob.Digest))
}

func (p packing) write(ctx context.Context, in io.Reader, out io.Writer) (packedLayer, error) {
	layer := io.NopCloser(&contextReader{ctx, in})
	if p.epoch != 0 {
		layer = tarconverter.NewReader(layer, p.header)
	}
	defer func() { _ = layer.Close() }()
	counted := &counter{to: out}
	blob, diff := digest.SHA256.Digester(), digest.SHA256.Digester()
	zip, mediaType, err := p.compressor(io.MultiWriter(counted, blob.Hash()))
	if err != nil {
		return packedLayer{}, err
	}
	_, err = io.Copy(io.MultiWriter(zip, diff.Hash()), layer)
	if err := errors.Join(err, zip.Close()); err != nil {
		return packedLayer{}, err
	}
	packed := packedLayer{
		blob: ocispecs.Descriptor{MediaType: mediaType, Digest: blob.Digest(), Size: counted.n}, diff: diff.Digest(),
	}
	if p.epoch != 0 {
		packed.blob.Annotations = map[string]string{rewrittenKey: strconv.FormatInt(p.epoch, 10)}
	}
	return packed, nil
}

// rewrittenKey is the annotation that BuildKit's exporter leaves on a layer whose times it has rewritten.
const rewrittenKey = "buildkit/rewritten-timestamp"

// whiteout begins the name of a file that stands for a removed one (OCI image specification, layer.md).
const whiteout = ".wh."

// header does what BuildKit's rewrite-timestamp does (util/converter), and gives the header the form that it has in a layer
// of BuildKit's, but not in one of a Docker Engine: no time or mode of what was removed, and in 20.10 no names of
// users, and no kind of file in the mode.
func (p packing) header(h *tar.Header) {
	epoch := time.Unix(p.epoch, 0).UTC()
	if strings.HasPrefix(path.Base(h.Name), whiteout) {
		h.Mode, h.ModTime = 0, time.Unix(0, 0).UTC()
	}
	for _, t := range []*time.Time{&h.ModTime, &h.AccessTime, &h.ChangeTime} {
		if t.After(epoch) {
			*t = epoch
		}
	}
	h.Uname, h.Gname = "", ""
	h.Mode &= 0o7777
}

// compressor compresses as BuildKit does (util/compression).
func (p packing) compressor(to io.Writer) (io.WriteCloser, string, error) {
	switch p.kind {
	case "gzip":
		level := gzip.DefaultCompression
		if p.level != 0 {
			level = p.level
		}
		zip, err := gzip.NewWriterLevel(to, level)
		return zip, ocispecs.MediaTypeImageLayerGzip, err
	case "zstd":
		level := zstd.SpeedDefault
		if p.level != 0 {
			level = zstd.EncoderLevelFromZstd(p.level)
		}
		zip, err := zstd.NewWriter(to, zstd.WithEncoderLevel(level))
		return zip, ocispecs.MediaTypeImageLayerZstd, err
	default:
		return nil, "", fmt.Errorf("compression %q is not known", p.kind)
	}
}

// withLayers is a config with other layers, as BuildKit writes it.
func withLayers(config []byte, diffs []digest.Digest) ([]byte, error) {
	var was ocispecs.Image
	var all map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal(config, &was), json.Unmarshal(config, &all)); err != nil {
		return nil, err
	}
	if slices.Equal(was.RootFS.DiffIDs, diffs) {
		return config, nil
	}
	rootfs, err := json.Marshal(ocispecs.RootFS{Type: "layers", DiffIDs: diffs})
	if err != nil {
		return nil, err
	}
	all["rootfs"] = rootfs
	return json.Marshal(all)
}

// counter counts what is written.
type counter struct {
	to io.Writer
	n  int64
}

// Write writes.
func (c *counter) Write(data []byte) (int, error) {
	n, err := c.to.Write(data)
	c.n += int64(n)
	return n, err
}

// contextReader stops reading when a context ends.
type contextReader struct {
	ctx context.Context
	in  io.Reader
}

// Read reads.
func (r *contextReader) Read(into []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.in.Read(into)
}
