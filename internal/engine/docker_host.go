package engine

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/connhelper"
	dockercontext "github.com/docker/cli/cli/context"
	"github.com/docker/cli/cli/context/store"
	docker "github.com/docker/docker/client"

	"imagebuilder/internal/fault"
)

// Environment that the docker command reads, besides DOCKER_HOST and DOCKER_API_VERSION.
const (
	contextVariable   = "DOCKER_CONTEXT"
	tlsVariable       = "DOCKER_TLS"        // not empty: TLS with a server that nobody vouches for
	tlsVerifyVariable = "DOCKER_TLS_VERIFY" // not empty: TLS
	certPathVariable  = "DOCKER_CERT_PATH"  // folder of ca.pem, cert.pem and key.pem; default the configuration's
)

const (
	defaultContext = "default" // the one that is not in the store: what the environment says
	dockerEndpoint = "docker"  // what a context calls its Engine
)

// dockerAddress is where an Engine is and how it is reached.
type dockerAddress struct {
	host string
	tls  *tls.Config // nil without TLS
}

// findDocker finds the Engine as the docker command does (docker/cli cli/command, resolveContextName).
func findDocker(host string) (*dockerAddress, error) {
	if host == "" {
		host = os.Getenv(docker.EnvOverrideHost)
	}
	if host == "" {
		name := os.Getenv(contextVariable)
		if name == "" {
			file, err := config.Load(config.Dir())
			if err != nil {
				return nil, fault.New(fault.Invalid, "docker: read its configuration: %w", err)
			}
			name = file.CurrentContext
		}
		if name != "" && name != defaultContext {
			return fromContext(name)
		}
		host = docker.DefaultDockerHost
	}
	at := &dockerAddress{host: host}
	verify := os.Getenv(tlsVerifyVariable) != ""
	if !strings.HasPrefix(host, "tcp://") || !verify && os.Getenv(tlsVariable) == "" {
		return at, nil
	}
	folder := os.Getenv(certPathVariable)
	if folder == "" {
		folder = config.Dir()
	}
	var err error
	if at.tls, err = tlsFromFolder(folder, verify); err != nil {
		return nil, fault.New(fault.Invalid, "docker at %s: %w", host, err).WithHint("%s names the folder of ca.pem, cert.pem and key.pem", certPathVariable)
	}
	return at, nil
}

// HasDocker tells whether there may be an Engine: one is configured, or there is a socket at the usual place.
func HasDocker(host string) bool {
	at, err := findDocker(host)
	if err != nil {
		return true // something is configured, and dialling says what is wrong with it
	}
	if at.host != docker.DefaultDockerHost {
		return true
	}
	_, path, _ := strings.Cut(at.host, "://")
	_, err = os.Stat(path)
	return err == nil
}

// fromContext reads one of the docker command's contexts.
func fromContext(name string) (*dockerAddress, error) {
	wrong := func(err error) error {
		return fault.New(fault.Invalid, "docker context %q: %w", name, err).WithHint("docker context ls shows those that there are")
	}
	contexts := store.New(config.ContextStoreDir(), store.NewConfig(
		func() any { return &map[string]any{} },
		store.EndpointTypeGetter(dockerEndpoint, func() any { return &dockercontext.EndpointMetaBase{} }),
	))
	meta, err := contexts.GetMetadata(name)
	if err != nil {
		return nil, wrong(err)
	}
	endpoint, ok := meta.Endpoints[dockerEndpoint].(dockercontext.EndpointMetaBase)
	if !ok || endpoint.Host == "" {
		return nil, wrong(errors.New("it names no Docker Engine"))
	}
	at := &dockerAddress{host: endpoint.Host}
	files, err := dockercontext.LoadTLSData(contexts, name, dockerEndpoint)
	if err != nil {
		return nil, wrong(err)
	}
	if strings.HasPrefix(at.host, "tcp://") && (files != nil || endpoint.SkipTLSVerify) {
		if files == nil {
			files = &dockercontext.TLSData{}
		}
		if at.tls, err = tlsFrom(files.CA, files.Cert, files.Key, !endpoint.SkipTLSVerify); err != nil {
			return nil, wrong(err)
		}
	}
	return at, nil
}

func tlsFromFolder(folder string, verify bool) (*tls.Config, error) {
	var pem [3][]byte
	for i, name := range []string{"ca.pem", "cert.pem", "key.pem"} {
		data, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // each may be missing
			return nil, err
		}
		pem[i] = data
	}
	return tlsFrom(pem[0], pem[1], pem[2], verify)
}

func tlsFrom(ca, cert, key []byte, verify bool) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: !verify} // as the user asked for
	if len(ca) > 0 {
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(ca) {
			return nil, errors.New("ca.pem holds no certificate in PEM form")
		}
	}
	if len(cert) > 0 || len(key) > 0 {
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("cert.pem and key.pem: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

// client makes the API's client. It speaks the newest version that both sides know.
func (a *dockerAddress) client() (*docker.Client, error) {
	opts := []docker.Opt{docker.WithVersionFromEnv(), docker.WithAPIVersionNegotiation(), docker.WithUserAgent("image-builder")}
	scheme, rest, _ := strings.Cut(a.host, "://")
	switch scheme {
	case "ssh":
		helper, err := connhelper.GetConnectionHelper(a.host)
		if err != nil {
			return nil, err
		}
		opts = append(opts, transport(helper.Dialer), docker.WithHost(helper.Host), docker.WithDialContext(helper.Dialer))
	case "tcp", "http", "https":
		u, err := url.Parse(a.host)
		if err != nil || u.Host == "" {
			return nil, fmt.Errorf("%q is no address", rest)
		}
		dial := a.dialer(u)
		// The scheme stays http where TLS is on, because the dialer does TLS: the client's own way through a transport
		// with TLS leaves our dialer out for /grpc and /session, and with it the watch over the link.
		opts = append(opts, transport(dial), docker.WithHost("tcp://"+u.Host), docker.WithDialContext(dial), docker.WithScheme("http"))
	default:
		opts = append(opts, docker.WithHost(a.host))
	}
	return docker.NewClientWithOpts(opts...)
}

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

func transport(dial dialFunc) docker.Opt {
	return docker.WithHTTPClient(&http.Client{Transport: &http.Transport{DialContext: dial}, CheckRedirect: docker.CheckRedirect})
}

// dialer connects to an Engine by TCP and notices when the link is cut.
func (a *dockerAddress) dialer(u *url.URL) dialFunc {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := watchedDialer().DialContext(ctx, "tcp", u.Host)
		if err != nil {
			return nil, err
		}
		if a.tls == nil {
			// Docker's client sets another keep-alive on what it sees to be TCP.
			return struct{ net.Conn }{conn}, nil
		}
		cfg := a.tls.Clone()
		if cfg.ServerName == "" {
			cfg.ServerName = u.Hostname()
		}
		secure := tls.Client(conn, cfg)
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = conn.Close()
			return nil, err
		}
		return secure, nil
	}
}
