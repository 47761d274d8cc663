package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker/auth"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"imagebuilder/internal/egress"
)

// endpoint is a registry host as an http.RoundTripper: it finds out by which scheme the host is
// reached and how it wants to be told who we are, and then sends every request so. Requests that
// were redirected to other hosts pass through without credentials.
type endpoint struct {
	client    *Client
	host      string   // as it stands in URLs
	canonical string   // as credentials are looked up
	schemes   []string // to be tried in this order
	base      egress.Transport
	reach     reach
	down      atomic.Bool // it did not answer when it was asked as a mirror

	turn      chan struct{}   // holds one value while somebody reads or changes what follows
	scheme    string          // "" until the host has answered
	challenge *auth.Challenge // how the host wants to be told; nil when it did not ask
	tokens    map[string]bearer
}

// RoundTrip sends a request, and sends it once more if the registry wants other credentials than it was given.
func (e *endpoint) RoundTrip(request *http.Request) (*http.Response, error) {
	if !e.serves(request.URL.Host) {
		return e.base.RoundTrip(request)
	}
	ctx := request.Context()
	repository, scope := repositoryOf(request), scopeOf(request)
	sent, err := e.authorize(ctx, repository, scope, nil)
	if err != nil {
		closeBody(request)
		return nil, err
	}
	response, err := e.send(request, sent)
	if err != nil || response.StatusCode != http.StatusUnauthorized {
		return response, err
	}
	challenge := supported(response.Header)
	body, err := rewind(request)
	if challenge == nil || err != nil {
		return response, nil
	}
	if asked := normalScope(challenge.Parameters["scope"]); asked != "" {
		scope = asked
	}
	other, err := e.authorize(ctx, repository, scope, &refusal{challenge: challenge, sent: sent})
	if err != nil {
		discard(response)
		return nil, err
	}
	if other.header == sent.header {
		return response, nil // nothing else to offer: the registry's word stands
	}
	discard(response)
	again := request.Clone(ctx)
	again.Body = body
	return e.send(again, other)
}

// serves tells whether a host of a URL is this one; registries behind proxies spell out the port at times.
func (e *endpoint) serves(host string) bool {
	return host == e.host || host == e.host+":443" || host == e.host+":80"
}

// authorization is what one request is sent with.
type authorization struct {
	scheme string // http or https
	header string // "" is nothing
	scope  string // of a bearer token
	fresh  bool   // the token was asked for just now
}

// refusal is a request that was answered with 401.
type refusal struct {
	challenge *auth.Challenge
	sent      authorization
}

// authorize decides what a request is sent with. After a refusal, a token that was not asked for just now is replaced.
func (e *endpoint) authorize(ctx context.Context, repository, scope string, refused *refusal) (authorization, error) {
	select {
	case e.turn <- struct{}{}:
		defer func() { <-e.turn }()
	case <-ctx.Done():
		return authorization{}, context.Cause(ctx)
	}
	if e.scheme == "" {
		if err := e.greet(ctx); err != nil {
			return authorization{}, err
		}
	}
	if refused != nil {
		e.challenge = refused.challenge
		if refused.sent.fresh && refused.sent.scope == scope {
			return refused.sent, nil
		}
	}
	a := authorization{scheme: e.scheme, scope: scope}
	if e.challenge == nil {
		return a, nil
	}
	who, err := e.client.login(ctx, e.canonical, repository)
	if err != nil {
		return a, err
	}
	if e.challenge.Scheme == auth.BasicAuth {
		if who.secret != "" {
			a.header = "Basic " + who.basic()
		}
		return a, nil
	}
	if refused != nil {
		// Unless another request has replaced it meanwhile, the token that was refused is done with.
		if old, ok := e.tokens[scope]; ok && "Bearer "+old.value == refused.sent.header {
			delete(e.tokens, scope)
		}
	}
	token, fresh, err := e.token(ctx, scope, who)
	if err != nil {
		return a, err
	}
	a.header, a.fresh = "Bearer "+token, fresh
	return a, nil
}

// reachedBy is the scheme by which the host was reached, "" when it was not.
func (e *endpoint) reachedBy() string {
	e.turn <- struct{}{}
	defer func() { <-e.turn }()
	return e.scheme
}

// greet finds out how the host is reached.
func (e *endpoint) greet(ctx context.Context) error {
	ctx, cancel := e.noLaterThan(ctx)
	defer cancel()
	var err error
	for i, scheme := range e.schemes {
		var response *http.Response
		if response, err = e.ping(ctx, scheme); err != nil {
			if i+1 < len(e.schemes) && ctx.Err() == nil && e.speaksNoTLS(err) {
				continue
			}
			return err
		}
		defer discard(response)
		if temporaryStatus(response.StatusCode) {
			return transport.CheckError(response)
		}
		// Whatever else it says to this, the request that comes next will tell.
		e.scheme = scheme
		if response.StatusCode == http.StatusUnauthorized {
			e.challenge = supported(response.Header)
		}
		return nil
	}
	return err
}

func (e *endpoint) ping(ctx context.Context, scheme string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+e.host+"/v2/", nil)
	if err != nil {
		return nil, err
	}
	return e.send(request, authorization{scheme: scheme})
}

// speaksNoTLS tells whether it is worth trying http, by BuildKit's rules.
func (e *endpoint) speaksNoTLS(err error) bool {
	if isPlainAnswer(err) {
		return true
	}
	_, port, splitErr := net.SplitHostPort(e.host)
	noPort := splitErr != nil || port == ""
	return noPort && errors.Is(err, syscall.ECONNREFUSED) // nothing on 443: there may be something on 80
}

// isPlainAnswer tells whether a TLS handshake was answered in plain http.
func isPlainAnswer(err error) bool {
	var record tls.RecordHeaderError
	return errors.As(err, &record) && string(record.RecordHeader[:]) == "HTTP/" || errors.Is(err, http.ErrSchemeMismatch)
}

func (e *endpoint) send(request *http.Request, a authorization) (*http.Response, error) {
	out := request.Clone(request.Context())
	out.URL.Scheme = a.scheme
	out.Header.Del("Authorization")
	if a.header != "" {
		out.Header.Set("Authorization", a.header)
	}
	out.Header.Del("User-Agent")
	if e.client.config.UserAgent != "" {
		out.Header.Set("User-Agent", e.client.config.UserAgent)
	}
	return e.base.RoundTrip(out)
}

// supported is the challenge that we can meet, a token before a password; nil when there is none.
func supported(header http.Header) *auth.Challenge {
	for _, c := range auth.ParseAuthHeader(header) {
		if c.Scheme == auth.BearerAuth || c.Scheme == auth.BasicAuth {
			return &c
		}
	}
	return nil
}

// rewind gives a request's body once more; an error means that there is no second one.
func rewind(request *http.Request) (io.ReadCloser, error) {
	if request.Body == nil || request.Body == http.NoBody {
		return request.Body, nil
	}
	if request.GetBody == nil {
		return nil, fmt.Errorf("%s %s: the body cannot be sent twice", request.Method, request.URL.Path)
	}
	return request.GetBody()
}

func closeBody(request *http.Request) {
	if request.Body != nil {
		_ = request.Body.Close()
	}
}

// discardLimit is what is read of an answer that nobody wants, so that its connection can be used again.
const discardLimit = 64 << 10

func discard(response *http.Response) {
	_, _ = io.CopyN(io.Discard, response.Body, discardLimit)
	_ = response.Body.Close()
}

// noLaterThan is a context for one request that is small both ways.
func (e *endpoint) noLaterThan(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, e.client.config.Timeout, slowError{e.client.config.Timeout})
}

// slowError is an answer that did not come in time.
type slowError struct{ limit time.Duration }

func (s slowError) Error() string { return fmt.Sprintf("no answer within %s", s.limit) }

// Is makes it a deadline, as errors.Is sees it.
func (s slowError) Is(target error) bool { return target == context.DeadlineExceeded }
