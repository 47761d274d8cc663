package buildparams

import (
	"fmt"
	"strconv"
	"time"

	"github.com/distribution/reference"
)

// maxGzipLevel is the highest level of gzip; zstd's is in the schema.
const maxGzipLevel = 9

// Time is the time that an epoch other than EpochCommit stands for.
func (e Epoch) Time() (time.Time, error) {
	if seconds, err := strconv.ParseInt(string(e), 10, 64); err == nil && seconds >= 0 {
		return time.Unix(seconds, 0).UTC(), nil
	}
	t, err := time.Parse(time.RFC3339, string(e))
	if err != nil || t.Unix() < 0 {
		return time.Time{}, fmt.Errorf("%q is not a time since 1970", string(e))
	}
	return t.UTC(), nil
}

// compressionOf is options.compression with its default.
func compressionOf(options place) string {
	if s, ok := options.member("compression").text(); ok {
		return s
	}
	return "gzip"
}

// cache checks what the schema cannot say of options.cache.
func (c *checker) cache(p place) {
	ref := p.member("ref")
	s, ok := ref.text()
	if !ok {
		return
	}
	named, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		c.wrong(ref, "is not a repository", "write it with its registry, as in registry.example.com/shop/cache")
		return
	}
	if !reference.IsNameOnly(named) {
		c.wrong(ref, "has a tag or a digest", "name the repository alone: the tag is made of the scope")
	}
}
