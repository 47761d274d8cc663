package registry

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
	"github.com/regclient/regclient"
	"github.com/regclient/regclient/config"
	"github.com/regclient/regclient/scheme/reg"
	"github.com/regclient/regclient/types/errs"
	"github.com/regclient/regclient/types/ref"

	"imagebuilder/internal/fault"
)

// DeleteTag removes a tag, and nothing else: other tags of the same manifest stay. Where the registry removes no tags by
// their names, an empty manifest is put under the tag and deleted with it, which is regclient's way; a registry that
// deletes nothing at all is not touched. A tag that is not there is an error of kind NotFound.
func (c *Client) DeleteTag(ctx context.Context, tagged string) error {
	img, err := c.parse(tagged)
	if err != nil {
		return err
	}
	ctx = asPush(ctx)
	action := "delete tag " + tagged
	err = img.delete(ctx, img.ref)
	if err == nil || !namesUnknown(err) {
		return img.refused(ctx, action, err)
	}
	before, err := img.digest(ctx)
	if isMissing(err) {
		return fault.New(fault.NotFound, "%s: it does not exist", action)
	}
	if err == nil {
		err = img.probeDeletion(ctx)
	}
	if err != nil {
		return img.refused(ctx, action, err)
	}
	if err = img.deleteByReplacing(ctx); errors.Is(err, errs.ErrNotFound) {
		return fault.New(fault.NotFound, "%s: it does not exist", action)
	}
	if err != nil {
		img.putBack(ctx, before)
	}
	return img.refused(ctx, action, err)
}

// delete asks for the removal of what a reference names.
func (i *image) delete(ctx context.Context, ref name.Reference) error {
	options, err := i.endpoint.remote()
	if err != nil {
		return err
	}
	return i.endpoint.request(ctx, func(ctx context.Context) error {
		return remote.Delete(ref, append(options, remote.WithContext(ctx))...)
	})
}

// namesUnknown tells whether a registry may have refused to delete a tag because it deletes digests alone, or has no such tag.
func namesUnknown(err error) bool {
	return hasStatus(err, http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented)
}

func isMissing(err error) bool { return hasStatus(err, http.StatusNotFound) }

func hasStatus(err error, any ...int) bool {
	var response *transport.Error
	return errors.As(err, &response) && slices.Contains(any, response.StatusCode)
}

// probeDeletion finds out whether the registry would delete a manifest, by one that does not exist.
func (i *image) probeDeletion(ctx context.Context) error {
	err := i.delete(ctx, i.ref.Context().Digest(digest.FromString(rand.Text()).String()))
	if isMissing(err) {
		return nil
	}
	return err
}

// deleteByReplacing is regclient's way.
func (i *image) deleteByReplacing(ctx context.Context) error {
	if err := i.endpoint.greet(ctx); err != nil {
		return err
	}
	target, err := ref.New(i.ref.Name())
	if err != nil {
		return err
	}
	host := config.HostNewName(target.Registry)
	// The endpoint decides how the host is reached, who we are, and whether to try again.
	host.Hostname, host.TLS, host.User, host.Pass = i.endpoint.host, config.TLSDisabled, "", ""
	client := regclient.New(
		regclient.WithConfigHost(*host),
		regclient.WithRegOpts(
			reg.WithRetryLimit(1), reg.WithDelay(time.Millisecond, time.Millisecond),
			reg.WithHTTPClient(&http.Client{Transport: i.endpoint}),
		),
	)
	return client.TagDelete(ctx, target)
}

// putBack gives a tag the manifest again that it had, should an attempt to delete it have ended half way.
func (i *image) putBack(ctx context.Context, before string) {
	ctx, cancel := i.endpoint.noLaterThan(context.WithoutCancel(ctx))
	defer cancel()
	if now, err := i.digest(ctx); err != nil || now == before {
		return
	}
	if got, err := i.manifest(ctx, before); err == nil {
		_ = i.put(ctx, i.ref, rawManifest{data: got.Manifest, mediaType: got.MediaType}) // the attempt's own error is told
	}
}

// refused is fail, with what to do about a registry that does not delete.
func (i *image) refused(ctx context.Context, action string, err error) error {
	failed := i.fail(ctx, action, err)
	var f *fault.Error
	if errors.As(failed, &f) && hasStatus(err, http.StatusMethodNotAllowed, http.StatusNotImplemented, http.StatusBadRequest) {
		f.Kind = fault.Denied
		f.Hint = "the registry deletes nothing: whoever runs it can allow it (in distribution's registry storage.delete.enabled)"
	}
	return failed
}
