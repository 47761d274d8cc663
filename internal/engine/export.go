package engine

import (
	"strconv"

	bk "github.com/moby/buildkit/client"
)

const (
	// defaultCompression is what every registry and every Docker Engine from 20.10 on can pull.
	defaultCompression = "gzip"
	// defaultGzipLevel makes layers 9 % larger than the usual 6 and takes a quarter of its time:
	// docs/decisions/0005-gzip-level.md has the figures.
	defaultGzipLevel = 3
)

// compression is how a variant's new layers are compressed; level 0 leaves it to the engine.
func (v Variant) compression() (kind string, level int) {
	kind, level = v.Compression, v.CompressionLevel
	if kind == "" {
		kind = defaultCompression
	}
	if kind == defaultCompression && level == 0 {
		level = defaultGzipLevel
	}
	return kind, level
}

// imageAttrs are the attributes of every exporter that makes an image, besides where it goes.
func imageAttrs(v Variant, attrs map[string]string) map[string]string {
	attrs["oci-mediatypes"] = "true" // on every engine the same, or digests would differ
	for name, value := range v.Annotations {
		attrs["annotation-manifest."+name] = value
	}
	kind, level := v.compression()
	attrs["compression"] = kind
	if level != 0 {
		attrs["compression-level"] = strconv.Itoa(level)
	}
	if v.Epoch != nil {
		attrs["source-date-epoch"] = strconv.FormatInt(v.Epoch.Unix(), 10)
		attrs["rewrite-timestamp"] = "true" // of files in new layers too, not only of the image's configuration
	}
	return attrs
}

// cacheEntries turns caches into BuildKit's terms.
func cacheEntries(caches []Cache) []bk.CacheOptionsEntry {
	entries := make([]bk.CacheOptionsEntry, len(caches))
	for i, c := range caches {
		entries[i] = bk.CacheOptionsEntry(c)
	}
	return entries
}
