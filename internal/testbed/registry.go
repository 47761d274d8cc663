// Package testbed starts the real parts that tests and the demonstration work with: an image
// registry, a token service, base images, git over HTTP, a BuildKit daemon. Nothing in it pretends:
// each part is the program that users meet, with a place to put faults in front of it.
//
// It is linked into no executable that builds images, and it imports no testing package, so that
// the demonstration can use it too.
package testbed

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/distribution/distribution/v3/configuration"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd" // auth: htpasswd
	_ "github.com/distribution/distribution/v3/registry/auth/token"    // auth: token
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // storage: filesystem
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory"   // storage: inmemory
	"github.com/sirupsen/logrus"
	"golang.org/x/crypto/bcrypt"
)

// RegistryOptions say what kind of registry is started. The zero value is an open one by plain http
// that keeps its images in memory.
type RegistryOptions struct {
	Address string            // to listen on; default 127.0.0.1:0, a free loopback port
	Dir     string            // where images are kept; "" is in memory
	Basic   map[string]string // user → password: basic authentication
	Tokens  *TokenOptions     // token authentication, as Docker Hub and GHCR have it; not with Basic
	TLS     bool              // https, with a certificate of an authority of its own: see Registry.CAPEM
	// Middleware stands in front of the registry: it counts requests, injects faults, slows bodies down.
	Middleware func(http.Handler) http.Handler
}

// Registry is a running registry.
type Registry struct {
	Host  string // localhost:PORT; BuildKit and docker take this name for one that speaks plain http
	CAPEM []byte // who signed the certificate, PEM; nil without TLS

	app     *handlers.App
	server  *http.Server
	tokens  *tokenService
	private string // folder with the files that the registry's own configuration wants
}

// StartRegistry starts a distribution registry in this process. Close stops it.
//
// The registry writes its log through the process-wide logger of logrus, which is silenced.
func StartRegistry(options RegistryOptions) (*Registry, error) {
	logrus.SetOutput(io.Discard)
	if options.Basic != nil && options.Tokens != nil {
		return nil, errors.New("start registry: basic and token authentication exclude each other")
	}
	private, err := os.MkdirTemp("", "testbed-registry-")
	if err != nil {
		return nil, fmt.Errorf("start registry: %w", err)
	}
	r := &Registry{private: private}
	if err := r.start(options); err != nil {
		return nil, errors.Join(fmt.Errorf("start registry: %w", err), r.Close())
	}
	return r, nil
}

func (r *Registry) start(options RegistryOptions) error {
	listener, host, err := listen(options.Address)
	if err != nil {
		return err
	}
	r.Host = host
	var certificate *tls.Config
	if options.TLS {
		if certificate, r.CAPEM, err = selfSigned(listener.Addr().(*net.TCPAddr).IP); err != nil {
			return errors.Join(err, listener.Close())
		}
	}
	auth, err := r.auth(options, certificate)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	if r.app, err = newApp(options.Dir, auth); err != nil {
		return errors.Join(err, listener.Close())
	}
	var handler http.Handler = r.app
	if options.Middleware != nil {
		handler = options.Middleware(handler)
	}
	r.server = serve(listener, handler, certificate)
	return nil
}

// URL is the registry's root, with its scheme.
func (r *Registry) URL() string {
	if r.CAPEM != nil {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

// Close stops the registry at once: open connections are cut. What was kept in memory is gone.
func (r *Registry) Close() error {
	var errs []error
	if r.server != nil {
		errs = append(errs, r.server.Close())
	}
	if r.tokens != nil {
		errs = append(errs, r.tokens.Close())
	}
	if r.app != nil {
		errs = append(errs, r.app.Shutdown())
	}
	return errors.Join(append(errs, os.RemoveAll(r.private))...)
}

// auth makes the part of the configuration that says who may come in.
func (r *Registry) auth(options RegistryOptions, certificate *tls.Config) (configuration.Auth, error) {
	switch {
	case options.Basic != nil:
		path := filepath.Join(r.private, "htpasswd")
		if err := writeHtpasswd(path, options.Basic); err != nil {
			return nil, err
		}
		return configuration.Auth{"htpasswd": {"realm": "testbed", "path": path}}, nil
	case options.Tokens != nil:
		var err error
		if r.tokens, err = startTokenService(*options.Tokens, certificate); err != nil {
			return nil, err
		}
		path := filepath.Join(r.private, "jwks.json")
		if err := r.tokens.writeKeys(path); err != nil {
			return nil, err
		}
		return configuration.Auth{"token": {
			"realm": r.tokens.realm, "service": tokenAudience, "issuer": tokenIssuer, "jwks": path,
		}}, nil
	default:
		return nil, nil
	}
}

func newApp(dir string, auth configuration.Auth) (app *handlers.App, err error) {
	defer func() {
		if p := recover(); p != nil { // how distribution reports a configuration that it cannot use
			err = fmt.Errorf("registry: %v", p)
		}
	}()
	storage := configuration.Storage{
		"delete":      {"enabled": true},
		"maintenance": {"uploadpurging": map[any]any{"enabled": false}},
	}
	if dir == "" {
		storage["inmemory"] = configuration.Parameters{}
	} else {
		storage["filesystem"] = configuration.Parameters{"rootdirectory": dir}
	}
	config := &configuration.Configuration{Storage: storage, Auth: auth}
	config.HTTP.Secret = "one process, one registry" // signs upload states of this very process
	config.Catalog.MaxEntries = 1000                 // distribution's own default, which only its file parser fills in
	return handlers.NewApp(context.Background(), config), nil
}

func writeHtpasswd(path string, users map[string]string) error {
	var lines []byte
	for name, password := range users {
		hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		if err != nil {
			return fmt.Errorf("hash the password of %s: %w", name, err)
		}
		lines = fmt.Appendf(lines, "%s:%s\n", name, hash)
	}
	return os.WriteFile(path, lines, 0o600)
}

// listen opens the address and names it as clients on this machine should.
func listen(address string) (net.Listener, string, error) {
	if address == "" {
		address = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, "", err
	}
	tcp := listener.Addr().(*net.TCPAddr)
	host := fmt.Sprintf("localhost:%d", tcp.Port)
	if !tcp.IP.IsLoopback() && !tcp.IP.IsUnspecified() {
		host = tcp.String()
	}
	return listener, host, nil
}

// serve runs an HTTP server until it is closed.
func serve(listener net.Listener, handler http.Handler, certificate *tls.Config) *http.Server {
	// A server writes into its configuration, and the registry and its token service have the same.
	server := &http.Server{Handler: handler, TLSConfig: certificate.Clone(), ErrorLog: log.New(io.Discard, "", 0)} // a slow client is something that tests want
	go func() {
		if certificate != nil {
			_ = server.ServeTLS(listener, "", "")
			return
		}
		_ = server.Serve(listener)
	}()
	return server
}

// T is what a test gives to be cleaned up after; *testing.T is one.
type T interface {
	Helper()
	Cleanup(func())
	TempDir() string
	Fatalf(format string, args ...any)
}

// NewRegistry starts a registry that lives as long as the test.
func NewRegistry(t T, options RegistryOptions) *Registry {
	t.Helper()
	r, err := StartRegistry(options)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Fatalf("stop registry: %v", err)
		}
	})
	return r
}
