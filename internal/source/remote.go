package source

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"imagebuilder/internal/fault"
)

// maxHaves is how many commits that the mirror has are told to the server. The last few are what a new
// commit has most of its files from.
const maxHaves = 16

// remote is a repository on a server, and who asks.
type remote struct {
	job                *job
	loc                location
	username, password string
	step               string // event's step to report progress to
	session            transport.UploadPackSession
	refs               *packp.AdvRefs
	fetched            bool // something was transferred
}

// list asks the server for its references: one ls-remote. The connection is kept for a fetch.
func (r *remote) list(ctx context.Context) error {
	session, err := r.connect(ctx)
	if err != nil {
		return r.fault(ctx, err)
	}
	refs, err := session.AdvertisedReferencesContext(ctx)
	if err != nil {
		_ = session.Close()
		return r.fault(ctx, err)
	}
	r.session, r.refs = session, refs
	return nil
}

func (r *remote) connect(ctx context.Context) (transport.UploadPackSession, error) {
	ep := r.loc.endpoint()
	if r.loc.scheme == "ssh" {
		return r.connectSSH(ctx, ep)
	}
	client := githttp.NewClient(r.job.web("git", r.loc.origin(), r.username, r.password))
	return client.NewUploadPackSession(ep, nil)
}

// close ends the connection, if there is one.
func (r *remote) close() {
	if r.session != nil {
		_ = r.session.Close()
		r.session = nil
	}
}

// tips tells whether hash is the tip of a reference.
func (r *remote) tip(hash plumbing.Hash) bool {
	if r.refs.Head != nil && *r.refs.Head == hash {
		return true
	}
	for _, h := range r.refs.References {
		if h == hash {
			return true
		}
	}
	return false
}

// serves tells whether the server gives an object that is no tip. (Over protocol v2, which go-git
// does not speak, servers always do.)
func (r *remote) serves(hash plumbing.Hash) bool {
	return r.tip(hash) || r.refs.Capabilities.Supports(capability.AllowReachableSHA1InWant) ||
		r.refs.Capabilities.Supports("allow-any-sha1-in-want")
}

// fetch transfers wants into the mirror: with their files only, or with all history.
func (r *remote) fetch(ctx context.Context, to *filesystem.Storage, wants []plumbing.Hash, history bool) error {
	if r.session == nil {
		if err := r.list(ctx); err != nil {
			return err
		}
	}
	defer r.close()
	r.fetched = true
	req := packp.NewUploadPackRequestFromCapabilities(r.refs.Capabilities)
	req.Wants = wants
	shallow := !history && r.refs.Capabilities.Supports(capability.Shallow)
	if shallow {
		_ = req.Capabilities.Set(capability.Shallow)
		req.Depth = packp.DepthCommits(1)
		known, err := to.Shallow()
		if err != nil {
			return &damage{err}
		}
		known = known[max(0, len(known)-maxHaves):]
		req.Shallows, req.Haves = append(req.Shallows, known...), append(req.Haves, known...)
	}
	res, err := r.session.UploadPack(ctx, req)
	if err != nil {
		return r.fault(ctx, err)
	}
	defer res.Close()
	if err := r.store(ctx, to, req, res); err != nil {
		return err
	}
	if shallow {
		return r.recordShallow(to, res)
	}
	return nil
}

func (r *remote) store(ctx context.Context, to *filesystem.Storage, req *packp.UploadPackRequest, res *packp.UploadPackResponse) error {
	progress := r.job.progress(r.step)
	defer progress.done()
	var in io.Reader = &contextReader{ctx, res}
	kind := sideband.Type(-1)
	switch {
	case req.Capabilities.Supports(capability.Sideband64k):
		kind = sideband.Sideband64k
	case req.Capabilities.Supports(capability.Sideband):
		kind = sideband.Sideband
	}
	if kind >= 0 {
		demuxer := sideband.NewDemuxer(kind, in)
		demuxer.Progress = progress
		in = demuxer
	}
	counted := &countingReader{r: in, count: progress.add}
	if err := r.storePack(ctx, to, counted); err != nil {
		if counted.err != nil {
			return r.fault(ctx, counted.err)
		}
		if ctx.Err() != nil {
			return cancelled(ctx, err)
		}
		return fmt.Errorf("fetch %s: store what the server sent: %w", r.loc, err)
	}
	return nil
}

func (r *remote) storePack(ctx context.Context, to *filesystem.Storage, pack io.Reader) error {
	if git, ok := r.job.git(); ok {
		return git.store(ctx, to.Filesystem().Root(), pack)
	}
	return packfile.UpdateObjectStorage(to, pack)
}

// recordShallow notes commits whose history is not in the mirror.
func (r *remote) recordShallow(to *filesystem.Storage, res *packp.UploadPackResponse) error {
	known, err := to.Shallow()
	if err != nil {
		return &damage{err}
	}
	keep := make([]plumbing.Hash, 0, len(known)+len(res.Shallows))
	gone := map[plumbing.Hash]bool{}
	for _, h := range append(res.Unshallows, res.Shallows...) {
		gone[h] = true
	}
	for _, h := range known {
		if !gone[h] {
			keep = append(keep, h)
		}
	}
	if err := to.SetShallow(append(keep, res.Shallows...)); err != nil {
		return fmt.Errorf("write mirror of %s: %w", r.loc, err)
	}
	return nil
}

// fault makes a fault of what the transport says. The server's own words are not repeated:
// they may hold what was sent to it.
func (r *remote) fault(ctx context.Context, err error) error {
	what := "fetch git " + r.loc.String()
	if ctx.Err() != nil {
		return cancelled(ctx, err)
	}
	var unexpected *plumbing.UnexpectedError // it hides its cause from errors.As
	if errors.As(err, &unexpected) {
		err = unexpected.Err
	}
	var status *githttp.Err
	switch {
	case errors.Is(err, transport.ErrAuthenticationRequired), errors.Is(err, transport.ErrAuthorizationFailed):
		denied := fault.New(fault.Denied, "%s: the server refuses access", what)
		if r.username+r.password == "" {
			return denied.WithHint("give username and password (or a token as password)")
		}
		return denied.WithHint("check username and password; many servers want an access token as password")
	case errors.Is(err, transport.ErrRepositoryNotFound):
		return fault.New(fault.NotFound, "%s: there is no such repository", what).
			WithHint("check the URL; some servers say so too when credentials are missing")
	case errors.Is(err, transport.ErrEmptyRemoteRepository):
		return fault.New(fault.NotFound, "%s: the repository is empty", what).WithHint("push a commit to it")
	case errors.As(err, &status):
		kind := fault.Unavailable
		if code := status.StatusCode(); code >= 400 && code < 500 && code != 408 && code != 429 {
			kind = fault.Invalid
		}
		return fault.New(kind, "%s: status %d", what, status.StatusCode())
	case errors.Is(err, packp.ErrEmptyInput), isUnexpectedData(err):
		return fault.New(fault.NotFound, "%s: what answers there is no git server", what).WithHint("check the URL")
	}
	if known := sshFault(what, err); known != nil {
		return known
	}
	return netFault(what, &hiddenError{r.job.hidden.Replace(err.Error()), err})
}

func isUnexpectedData(err error) bool {
	var unexpected *packp.ErrUnexpectedData
	return errors.As(err, &unexpected)
}

// hiddenError is an error with secrets taken out of its text.
type hiddenError struct {
	text string
	err  error
}

func (h *hiddenError) Error() string { return h.text }
func (h *hiddenError) Unwrap() error { return h.err }

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

type countingReader struct {
	r     io.Reader
	count func(n int)
	err   error // that reading, not storing, ended with
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.count(n)
	if err != nil && !errors.Is(err, io.EOF) {
		c.err = err
	}
	return n, err
}
