package registry

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/regclient/regclient"
	"github.com/regclient/regclient/config"
	"github.com/regclient/regclient/scheme/reg"
	"github.com/regclient/regclient/types/errs"
	"github.com/regclient/regclient/types/ref"

	"imagebuilder/internal/fault"
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

// DeleteTag removes a tag, and nothing else: other tags of the same manifest stay. Where the registry cannot do that, an
// empty manifest is put under the tag and deleted with it, which is regclient's way.
func (c *Client) DeleteTag(ctx context.Context, tagged string) error {
	img, err := c.parse(tagged)
	if err != nil {
		return err
	}
	ctx = asPush(ctx)
	action := "delete tag " + tagged
	if err := img.endpoint.greet(ctx); err != nil {
		return img.fail(ctx, action, err)
	}
	target, err := ref.New(img.ref.Name())
	if err != nil {
		return img.fail(ctx, action, err)
	}
	host := config.HostNewName(target.Registry)
	// The endpoint decides how the host is reached, who we are, and whether to try again.
	host.Hostname, host.TLS, host.User, host.Pass = img.endpoint.host, config.TLSDisabled, "", ""
	client := regclient.New(
		regclient.WithConfigHost(*host),
		regclient.WithRegOpts(
			reg.WithRetryLimit(1), reg.WithDelay(time.Millisecond, time.Millisecond),
			reg.WithHTTPClient(&http.Client{Transport: img.endpoint}),
		),
	)
	err = client.TagDelete(ctx, target)
	if errors.Is(err, errs.ErrNotFound) {
		return fault.New(fault.NotFound, "%s: it does not exist", action)
	}
	return img.fail(ctx, action, err)
}
