package registry

import (
	"context"
	"encoding/json"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Tags lists a repository's tags.
func (c *Client) Tags(ctx context.Context, repository string) ([]string, error) {
	img, err := c.parseRepository(repository)
	if err != nil {
		return nil, err
	}
	options, err := img.endpoint.remote()
	if err != nil {
		return nil, err
	}
	var tags []string
	err = img.endpoint.request(ctx, func(ctx context.Context) (err error) {
		tags, err = remote.List(img.ref.Context(), append(options, remote.WithContext(ctx))...)
		return err
	})
	return tags, img.fail(ctx, "list the tags of "+repository, err)
}

// cacheConfig is the part of a BuildKit cache's configuration that tells its age: when its results were made
// (moby/buildkit cache/remotecache/v1/types).
type cacheConfig struct {
	Records []struct {
		Results []madeAt `json:"layers"`
		Chained []madeAt `json:"chains"`
	} `json:"records"`
}

type madeAt struct {
	CreatedAt time.Time `json:"createdAt"`
}

// newest is the time of the newest result, the zero time when there is none.
func (c cacheConfig) newest() time.Time {
	var newest time.Time
	for _, record := range c.Records {
		for _, made := range append(record.Results, record.Chained...) {
			if made.CreatedAt.After(newest) {
				newest = made.CreatedAt
			}
		}
	}
	return newest
}

// CacheTime is when the newest result in a build cache was made; the zero time when the cache is empty.
func (c *Client) CacheTime(ctx context.Context, ref string) (time.Time, error) {
	img, err := c.parse(ref)
	if err != nil {
		return time.Time{}, err
	}
	options, err := img.endpoint.remote()
	if err != nil {
		return time.Time{}, err
	}
	var config cacheConfig
	err = img.endpoint.request(ctx, func(ctx context.Context) error {
		cache, err := remote.Image(img.ref, append(options, remote.WithContext(ctx))...)
		if err != nil {
			return err
		}
		data, err := cache.RawConfigFile()
		if err != nil {
			return err
		}
		return json.Unmarshal(data, &config)
	})
	return config.newest(), img.fail(ctx, "read cache "+ref, err)
}
