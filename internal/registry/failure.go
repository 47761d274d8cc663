package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"

	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"imagebuilder/internal/fault"
)

// maxServerText is as much of a server's own words as an error repeats, in bytes: a sentence or two.
const maxServerText = 300

// fail turns an error into a fault. action says what was tried, as in "push localhost:5000/a".
// Nothing of what a server said gets into the text without having been cleared of what we know to be secret.
func (i *image) fail(ctx context.Context, action string, err error) error {
	e := i.endpoint
	if err == nil {
		return nil
	}
	var done *fault.Error
	if errors.As(err, &done) {
		return done
	}
	if ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled) {
		return fault.New(fault.Cancelled, "%s: %w", action, context.Canceled)
	}
	f := i.explain(err)
	times := ""
	var tried *triedError
	if errors.As(err, &tried) && tried.times > 1 {
		times = fmt.Sprintf(" after %d tries", tried.times)
	}
	f.Message = e.client.secrets.clear(action + ": " + f.Message + times)
	f.Hint = e.client.secrets.clear(f.Hint)
	return f
}

// explain finds out what an error means. The message is yet to be cleared of secrets; causes that carry URLs are not kept.
func (i *image) explain(err error) *fault.Error {
	e := i.endpoint
	var (
		response *transport.Error
		token    *tokenError
		realm    *realmError
	)
	switch {
	case errors.As(err, &realm):
		return fault.New(fault.Denied, "%s", realm.Error()).WithHint("credentials are not sent there")
	case errors.As(err, &token):
		return i.explainToken(token)
	case errors.As(err, &response):
		return e.explainStatus(response.StatusCode, e.diagnostics(response.Errors), i.source())
	case isPlainAnswer(err):
		return fault.New(fault.Invalid, "%s speaks plain http, not https", e.host).
			WithHint("%s, if that is meant", e.advice("set target.registry.insecure or give the registry's URL with http://", "plain_http"))
	case isCertificate(err):
		return e.explainCertificate(err)
	case errors.Is(err, context.DeadlineExceeded):
		var slow slowError
		if errors.As(err, &slow) {
			return fault.New(fault.Unavailable, "%w", slow)
		}
		return fault.New(fault.Unavailable, "no answer in time")
	case isLocal(err): // before the network: an error of the operating system looks like one of either
		return fault.New(fault.Internal, "%s", e.bare(err))
	case isNetwork(err):
		return fault.New(fault.Unavailable, "%s", e.bare(err)).WithHint("is the registry %s running, and is its name right?", e.host)
	default:
		return fault.New(fault.Unavailable, "%s", e.bare(err)) // an answer that makes no sense; the registry's, not the document's
	}
}

func (i *image) explainToken(t *tokenError) *fault.Error {
	e := i.endpoint
	var status remoteerrors.ErrUnexpectedStatus
	if !errors.As(t.err, &status) {
		f := i.explain(t.err)
		f.Message = "token service: " + f.Message
		return f
	}
	var body struct{ Errors []transport.Diagnostic }
	_ = json.Unmarshal(status.Body, &body) // some say why, in this form
	code := status.StatusCode
	if code == http.StatusBadRequest { // how OAuth2 calls credentials that are wrong
		code = http.StatusUnauthorized
	}
	f := e.explainStatus(code, e.diagnostics(body.Errors), t.who)
	f.Message = "token service: " + f.Message
	return f
}

func (e *endpoint) explainStatus(status int, said string, who login) *fault.Error {
	text := fmt.Sprintf("status %d", status)
	if said != "" {
		text += ": " + said
	}
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		if who.isZero() {
			return fault.New(fault.Denied, "%s denies access without credentials (%s)", e.canonical, text).
				WithHint("give username and password in target.registry, or run docker login %s; a repository that does not exist may look like this too", e.canonical)
		}
		return fault.New(fault.Denied, "%s denies access with %s (%s)", e.canonical, who.source, text).
			WithHint("check them and what they allow; a repository that does not exist may look like this too")
	case status == http.StatusNotFound:
		return fault.New(fault.NotFound, "not found (%s)", text)
	case temporaryStatus(status) || status >= http.StatusInternalServerError:
		return fault.New(fault.Unavailable, "%s", text)
	case status == http.StatusBadRequest:
		return fault.New(fault.Invalid, "%s refuses the request (%s)", e.canonical, text)
	case status == http.StatusRequestEntityTooLarge:
		return fault.New(fault.Denied, "%s refuses a transfer of this size (%s)", e.canonical, text).
			WithHint("raise the limit of the registry or of the proxy in front of it")
	default: // 405 of a registry that only mirrors, or is read only
		return fault.New(fault.Denied, "%s refuses the request (%s)", e.canonical, text)
	}
}

// source is whose credentials are used for the image, as far as that is known without asking again.
func (i *image) source() login {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // a helper that was not asked before is not asked for the sake of an error
	who, _ := i.endpoint.client.login(ctx, i.endpoint.canonical, i.ref.Context().RepositoryStr())
	return who
}

// diagnostics are the codes and messages of a registry's answer. Its details are left out: they may hold anything.
func (e *endpoint) diagnostics(all []transport.Diagnostic) string {
	var parts []string
	for _, d := range all {
		part := string(d.Code)
		if d.Message != "" {
			part += ": " + d.Message
		}
		parts = append(parts, part)
	}
	return e.quote(strings.Join(parts, "; "))
}

// quote makes other people's words fit to stand in an error: without secrets, on one line, and not long. Secrets go
// first, while they are whole.
func (e *endpoint) quote(text string) string {
	text = e.client.secrets.clear(text)
	text = strings.ToValidUTF8(strings.Join(strings.Fields(text), " "), "?")
	if len(text) > maxServerText {
		text = strings.ToValidUTF8(text[:maxServerText], "") + "…"
	}
	return text
}

// bare is an error's text without the URL that net/http puts in front: its query may carry signatures.
func (e *endpoint) bare(err error) string {
	for {
		var u *url.Error
		if !errors.As(err, &u) {
			return e.quote(err.Error())
		}
		err = u.Err
	}
}

func isCertificate(err error) bool {
	var (
		verification *tls.CertificateVerificationError
		authority    x509.UnknownAuthorityError
		hostname     x509.HostnameError
		invalid      x509.CertificateInvalidError
	)
	return errors.As(err, &verification) || errors.As(err, &authority) || errors.As(err, &hostname) || errors.As(err, &invalid)
}

func isNetwork(err error) bool {
	var n net.Error
	return errors.As(err, &n) || isCut(err)
}

// isCut is a connection that ended in the middle.
func isCut(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNABORTED)
}

// isLocal is a failure of this machine's files.
func isLocal(err error) bool {
	var path *fs.PathError
	return errors.As(err, &path)
}

// temporaryStatus is an answer after which the same request may succeed.
func temporaryStatus(status int) bool {
	return slices.Contains([]int{
		http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout,
		499, 522, // nginx and Cloudflare: the other side went away, did not answer
	}, status)
}

// minSecret is the length from which on a value is taken out of texts: taking "a" out of
// every message would hide nothing and garble all.
const minSecret = 4

// redactor knows values that must not be shown.
type redactor struct {
	mu     sync.Mutex
	values []string
}

func (r *redactor) add(value string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(value) >= minSecret && !slices.Contains(r.values, value) {
		r.values = append(r.values, value)
	}
}

// clear masks the known values in a text, as they are and as a URL would carry them.
func (r *redactor) clear(text string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, value := range r.values {
		text = strings.ReplaceAll(text, value, "****")
		text = strings.ReplaceAll(text, url.QueryEscape(value), "****")
	}
	return text
}
