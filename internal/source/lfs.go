package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/format/config"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"golang.org/x/sync/errgroup"

	"imagebuilder/internal/fault"
)

const (
	// lfsBatch is how many objects are asked for at once, as git-lfs has it.
	lfsBatch = 100
	// lfsTransfers is how many are fetched at once.
	lfsTransfers = 4
	// maxLFSAnswer bounds an answer about a batch, in bytes: a kilobyte or two for each object, with signed URLs.
	maxLFSAnswer = 4 << 20
	// lfsMedia is the media type of the batch API.
	lfsMedia = "application/vnd.git-lfs+json"
)

// lfsObject is the content of a file that is kept in Git LFS.
type lfsObject struct {
	OID  string `json:"oid"`
	Size int64  `json:"size"`
}

// pointerLine are the lines of a pointer that matter (git-lfs docs/spec.md).
var pointerLine = regexp.MustCompile(`(?m)^(oid sha256:([0-9a-f]{64})|size ([0-9]{1,18}))$`)

// parsePointer reads what stands in the place of a file.
func parsePointer(text string) (lfsObject, error) {
	o := lfsObject{Size: -1}
	for _, m := range pointerLine.FindAllStringSubmatch(text, -1) {
		if m[2] != "" {
			o.OID = m[2]
			continue
		}
		o.Size, _ = strconv.ParseInt(m[3], 10, 64) // 18 digits fit
	}
	if !strings.HasPrefix(text, lfsStart) || o.OID == "" || o.Size < 0 {
		return o, errors.New("it starts as a pointer of Git LFS does and is none")
	}
	return o, nil
}

// lfsFetch fetches objects with connections that are guarded, as git-lfs' own cannot be: it takes addresses on loopback for ones
// that need no proxy, and the repository may name a file or an ssh server.
type lfsFetch struct {
	part     *part
	endpoint string
	client   *http.Client // with the repository's credentials, for its own origin
	bare     *http.Client // without any
}

// fetchLFS puts the content of files in the place of their pointers.
func (p *part) fetchLFS(ctx context.Context, st *filesystem.Storage, t *gitTree, pointers []string, dir string) error {
	j := p.repo.job
	endpoint, err := p.lfsEndpoint(st, t)
	if err != nil {
		return fault.Wrap(err, "check out %s", p.repo.loc)
	}
	f := &lfsFetch{
		part: p, endpoint: endpoint, client: j.web("Git LFS", p.repo.loc.origin(), p.repo.remote.username, p.repo.remote.password),
		bare: &http.Client{Transport: j.transport("Git LFS"), CheckRedirect: checkRedirect},
	}
	defer f.client.CloseIdleConnections()
	defer f.bare.CloseIdleConnections()
	wanted := map[string]bool{}
	for _, name := range pointers {
		wanted[name] = true
	}
	files := map[lfsObject][]string{}
	var objects []lfsObject
	for _, e := range p.entries {
		if !wanted[e.path] {
			continue
		}
		var text bytes.Buffer
		if err := copyObject(st, plumbing.BlobObject, e.hash, &text); err != nil {
			return err
		}
		object, err := parsePointer(text.String())
		if err != nil {
			return fault.New(fault.Invalid, "check out %s: %s: %w", p.repo.loc, path.Join(p.prefix, e.path), err)
		}
		if len(files[object]) == 0 {
			objects = append(objects, object)
		}
		files[object] = append(files[object], e.path)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fault.New(fault.Internal, "open checkout: %w", err)
	}
	defer root.Close()
	for start := 0; start < len(objects); start += lfsBatch {
		if err := f.batch(ctx, root, objects[start:min(len(objects), start+lfsBatch)], files); err != nil {
			return err
		}
	}
	return nil
}

// lfsEndpoint is where the repository's objects are: where .lfsconfig says, or below the repository's URL.
func (p *part) lfsEndpoint(st *filesystem.Storage, t *gitTree) (string, error) {
	url := p.repo.loc.String()
	if !strings.HasSuffix(url, ".git") {
		url = strings.TrimRight(url, "/") + ".git"
	}
	url += "/info/lfs"
	e, ok := t.entries[path.Join(p.prefix, ".lfsconfig")]
	if !ok || e.part != p || !e.mode.IsFile() || e.mode == filemode.Symlink {
		return url, nil
	}
	var text bytes.Buffer
	if err := copyObject(st, plumbing.BlobObject, e.hash, &text); err != nil {
		return "", err
	}
	named, err := lfsURL(&text)
	if err != nil || named == "" {
		return url, err
	}
	loc, err := parseLocation(named, func(string) (string, error) { return "", errors.New("it is on this machine") })
	if err == nil && loc.scheme != "http" && loc.scheme != "https" {
		err = fault.New(fault.Denied, "this service fetches by http and https only")
	}
	if err != nil {
		return "", fault.Wrap(err, ".lfsconfig: lfs.url")
	}
	return strings.TrimRight(loc.String(), "/"), nil
}

// lfsURL is what a .lfsconfig says about where objects are, "" for nothing.
func lfsURL(text io.Reader) (string, error) {
	settings := config.New()
	if err := config.NewDecoder(text).Decode(settings); err != nil {
		return "", fault.New(fault.Invalid, ".lfsconfig: %w", err)
	}
	return orDefault(settings.Section("lfs").Option("url"), settings.Section("remote").Subsection("origin").Option("lfsurl")), nil
}

// lfsAnswer is the answer to a batch (git-lfs docs/api/batch.md).
type lfsAnswer struct {
	Objects []struct {
		lfsObject
		Error *struct {
			Code    int    `json:"code"`
			Message string `json:"message"`
		} `json:"error"`
		Actions struct {
			Download *struct {
				Href   string            `json:"href"`
				Header map[string]string `json:"header"`
			} `json:"download"`
		} `json:"actions"`
	} `json:"objects"`
}

// batch asks where objects are and fetches them.
func (f *lfsFetch) batch(ctx context.Context, root *os.Root, objects []lfsObject, files map[lfsObject][]string) error {
	what := "fetch from Git LFS " + f.endpoint
	body, err := json.Marshal(map[string]any{
		"operation": "download", "transfers": []string{"basic"}, "hash_algo": "sha256", "objects": objects,
	})
	if err != nil {
		return fault.New(fault.Internal, "%s: %w", what, err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, f.endpoint+"/objects/batch", bytes.NewReader(body))
	if err != nil {
		return fault.New(fault.Invalid, "%s: the URL cannot be asked for", what)
	}
	request.Header.Set("Accept", lfsMedia)
	request.Header.Set("Content-Type", lfsMedia)
	response, err := f.client.Do(request)
	if err != nil {
		return netFault(what, err)
	}
	defer response.Body.Close()
	if err := statusFault(what, response, f.part.repo.remote.username+f.part.repo.remote.password != ""); err != nil {
		return err
	}
	var answer lfsAnswer
	if err := json.NewDecoder(io.LimitReader(response.Body, maxLFSAnswer)).Decode(&answer); err != nil {
		return fault.New(fault.Unavailable, "%s: its answer makes no sense: %w", what, err)
	}
	missing := map[lfsObject]bool{}
	for _, o := range objects {
		missing[o] = true
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(lfsTransfers)
	for _, o := range answer.Objects {
		if !missing[o.lfsObject] {
			continue
		}
		delete(missing, o.lfsObject)
		names := files[o.lfsObject]
		if o.Error != nil || o.Actions.Download == nil {
			code := http.StatusNotFound
			if o.Error != nil {
				code = o.Error.Code
			}
			return fault.New(fault.Unavailable, "%s: it does not have %s (%d)", what, f.at(names[0]), code)
		}
		download := o.Actions.Download
		group.Go(func() error { return f.download(groupCtx, root, o.lfsObject, download.Href, download.Header, names) })
	}
	if err := group.Wait(); err != nil {
		return cancelled(ctx, err)
	}
	for o := range missing {
		return fault.New(fault.Unavailable, "%s: it says nothing of %s", what, f.at(files[o][0]))
	}
	return nil
}

func (f *lfsFetch) at(name string) string { return path.Join(f.part.prefix, name) }

// download fetches one object into its files.
func (f *lfsFetch) download(ctx context.Context, root *os.Root, o lfsObject, href string, header map[string]string, names []string) error {
	what := "fetch " + f.at(names[0]) + " from Git LFS"
	u, err := url.Parse(href)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fault.New(fault.Unavailable, "%s: the server names no http or https URL for it", what)
	}
	if strings.HasPrefix(f.endpoint, "https:") && u.Scheme != "https" {
		return fault.New(fault.Denied, "%s: %w", what, errDowngrade)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, href, nil)
	if err != nil {
		return fault.New(fault.Unavailable, "%s: the server names no usable URL for it", what)
	}
	client := f.client
	for name, value := range header {
		request.Header.Set(name, value)
	}
	if request.Header.Get("Authorization") != "" {
		client = f.bare // what the server has given for this URL, and nothing else
	}
	response, err := client.Do(request)
	if err != nil {
		return netFault(what, err)
	}
	defer response.Body.Close()
	if err := statusFault(what, response, true); err != nil {
		return err
	}
	if err := writeLFS(root, names, o, response.Body); err != nil {
		return netFault(what, err)
	}
	return nil
}

// writeLFS writes an object to its files, and makes sure that it is what the pointer says.
func writeLFS(root *os.Root, names []string, o lfsObject, from io.Reader) error {
	hasher := sha256.New()
	n, err := overwrite(root, names[0], io.TeeReader(io.LimitReader(from, o.Size+1), hasher))
	switch {
	case err != nil:
		return err
	case n != o.Size || hex.EncodeToString(hasher.Sum(nil)) != o.OID:
		return errors.New("the server sends other content than the repository names")
	}
	for _, name := range names[1:] {
		first, err := root.Open(filepath.FromSlash(names[0]))
		if err != nil {
			return fault.New(fault.Internal, "read %s: %w", names[0], err)
		}
		_, err = overwrite(root, name, first)
		if err := errors.Join(err, first.Close()); err != nil {
			return err
		}
	}
	return nil
}

func overwrite(root *os.Root, name string, from io.Reader) (int64, error) {
	file, err := root.OpenFile(filepath.FromSlash(name), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return 0, fault.New(fault.Internal, "write %s: %w", name, err)
	}
	n, err := io.Copy(file, from)
	return n, errors.Join(err, file.Close())
}
