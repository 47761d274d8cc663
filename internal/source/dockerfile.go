package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"regexp"
	"strings"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/fault"
)

// maxDockerfile is the most that a Dockerfile may hold, in bytes. Those that people write are
// kilobytes, with scripts in heredocs tens of them; a mistaken URL may well name gigabytes.
const maxDockerfile = 1 << 20

// fetchDockerfile gets a Dockerfile by URL, and the name to show for it.
func (j *job) fetchDockerfile(ctx context.Context, d buildparams.Dockerfile, password string) (name string, data []byte, err error) {
	u, err := url.Parse(d.URL)
	if err != nil {
		return "", nil, fault.New(fault.Invalid, "source.dockerfile.url: %s cannot be parsed", redact(d.URL))
	}
	username := d.Username
	if u.User != nil {
		given, _ := u.User.Password()
		username, password = orDefault(username, u.User.Username()), orDefault(password, given)
		j.hide(given)
		u.User = nil
	}
	u.Fragment, u.RawFragment = "", ""
	shown := *u
	shown.RawQuery, shown.ForceQuery = "", false
	name = shown.String()

	end := j.emit.Begin("source:dockerfile", "fetch Dockerfile "+name, j.now)
	defer func() {
		if err != nil {
			err = cancelled(ctx, err)
		}
		end(err)
	}()
	switch u.Scheme {
	case "http", "https":
		if u.Host == "" {
			return "", nil, fault.New(fault.Invalid, "source.dockerfile.url: %s names no host", name)
		}
		data, err = j.getDockerfile(ctx, u, name, username, password)
	case "file":
		if u.Host != "" && u.Host != "localhost" || !path.IsAbs(u.Path) {
			return "", nil, fault.New(fault.Invalid, "source.dockerfile.url: %s is no absolute file URL", name).
				WithHint("write file:///absolute/path/Dockerfile")
		}
		if err = j.refuseLocal("source.dockerfile.url"); err == nil {
			data, err = readLocalDockerfile(u.Path)
		}
	default:
		return "", nil, fault.New(fault.Invalid, "source.dockerfile.url: scheme %q is not supported", u.Scheme).
			WithHint("use https, http or file")
	}
	if err != nil {
		return "", nil, err
	}
	return name, data, nil
}

func (j *job) getDockerfile(ctx context.Context, u *url.URL, name, username, password string) ([]byte, error) {
	what := "fetch Dockerfile " + name
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fault.New(fault.Invalid, "%s: the URL cannot be asked for", what)
	}
	req.Header.Set("Accept", "text/plain, */*;q=0.5")
	req.Header.Set("User-Agent", "image-builder")
	client := j.web("the Dockerfile", originOf(u), username, password)
	defer client.CloseIdleConnections()
	res, err := client.Do(req)
	if err != nil {
		return nil, netFault(what, err)
	}
	defer res.Body.Close()
	if err := statusFault(what, res, username+password != ""); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(res.Body, maxDockerfile+1))
	if err != nil {
		return nil, netFault(what, err)
	}
	return data, checkDockerfile(what, data, res.Header.Get("Content-Type"), u)
}

func statusFault(what string, res *http.Response, authenticated bool) error {
	switch code := res.StatusCode; {
	case code == http.StatusOK:
		return nil
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		err := fault.New(fault.Denied, "%s: status %d", what, code)
		if authenticated {
			return err.WithHint("check username and password, and that they may read it")
		}
		return err.WithHint("give username and password")
	case code == http.StatusNotFound || code == http.StatusGone:
		return fault.New(fault.NotFound, "%s: status %d", what, code).
			WithHint("check the URL; some servers say so too when credentials are missing")
	case code >= 500 || code == http.StatusTooManyRequests || code == http.StatusRequestTimeout:
		return fault.New(fault.Unavailable, "%s: status %d", what, code)
	default:
		return fault.New(fault.Invalid, "%s: status %d", what, code)
	}
}

// checkDockerfile refuses what cannot be a Dockerfile. Whether it is a right one is the parser's to say.
func checkDockerfile(what string, data []byte, contentType string, u *url.URL) error {
	start := bytes.ToLower(bytes.TrimSpace(bytes.TrimPrefix(data[:min(len(data), 512)], []byte("\xef\xbb\xbf"))))
	html := bytes.HasPrefix(start, []byte("<!doctype html")) || bytes.HasPrefix(start, []byte("<html")) ||
		strings.HasPrefix(contentType, "text/html") && bytes.HasPrefix(start, []byte("<"))
	switch {
	case html:
		err := fault.New(fault.Invalid, "%s: this is an HTML page, not a Dockerfile", what)
		if raw := rawURL(u); raw != "" {
			return err.WithHint("use the raw file: %s", raw)
		}
		return err.WithHint("give the URL of the raw file, not of the page that shows it; a page to log in means missing credentials")
	case len(data) > maxDockerfile:
		return fault.New(fault.Invalid, "%s: it is larger than %d bytes", what, maxDockerfile)
	case bytes.IndexByte(data, 0) >= 0:
		return fault.New(fault.Invalid, "%s: this is a binary file, not a Dockerfile", what)
	}
	return nil
}

// pages are how forges show a file, and where they have it raw.
var pages = []struct {
	page *regexp.Regexp
	raw  string
}{
	{regexp.MustCompile(`^(https?)://(?:www\.)?github\.com/([^/]+/[^/]+)/blob/(.+)$`), "$1://raw.githubusercontent.com/$2/$3"},
	{regexp.MustCompile(`^(.*)/-/blob/(.+)$`), "$1/-/raw/$2"},                                          // GitLab
	{regexp.MustCompile(`^(https?://[^/]+/[^/]+/[^/]+)/src/((?:branch|tag|commit)/.+)$`), "$1/raw/$2"}, // Gitea
	{regexp.MustCompile(`^(https?://bitbucket\.org/[^/]+/[^/]+)/src/(.+)$`), "$1/raw/$2"},
}

func rawURL(u *url.URL) string {
	shown := *u
	shown.RawQuery = ""
	for _, p := range pages {
		if s := shown.String(); p.page.MatchString(s) {
			return p.page.ReplaceAllString(s, p.raw)
		}
	}
	return ""
}

// readLocalDockerfile reads a file of this machine. Devices and pipes, which may never end, are refused.
func readLocalDockerfile(name string) ([]byte, error) {
	what := "read Dockerfile " + name
	info, err := os.Stat(name)
	if err != nil {
		return nil, fileFault(what, err)
	}
	if !info.Mode().IsRegular() {
		return nil, fault.New(fault.Invalid, "%s: it is not a file", what)
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, fileFault(what, err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxDockerfile+1))
	if err != nil {
		return nil, fileFault(what, err)
	}
	return data, checkDockerfile(what, data, "", &url.URL{})
}

func fileFault(what string, err error) error {
	var p *fs.PathError
	reason := err
	if errors.As(err, &p) {
		reason = p.Err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fault.New(fault.NotFound, "%s: it does not exist", what)
	case errors.Is(err, fs.ErrPermission):
		return fault.New(fault.Denied, "%s: %w", what, reason)
	}
	return fmt.Errorf("%s: %w", what, reason)
}
