package engine_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/engine"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/testbed"
)

// TestNodeByMutualTLS: both ends of a tcp connection prove who they are, or there is none.
func TestNodeByMutualTLS(t *testing.T) {
	t.Parallel()
	b := newNodesBed(t)
	authority, err := testbed.NewAuthority()
	require.NoError(t, err)
	stranger, err := testbed.NewAuthority()
	require.NoError(t, err)
	address := serveTLS(t, authority, b.node)
	ours, theirs := writePEM(t, authority), writePEM(t, stranger)

	open := func(files engine.TLS) func(context.Context) (engine.Engine, error) {
		return func(ctx context.Context) (engine.Engine, error) {
			eng, err := engine.Dial(ctx, "buildkit", address, files, nil)
			if err != nil {
				return nil, err
			}
			return eng, nil
		}
	}
	wanted := []ocispecs.Platform{amd64, i386}
	eng, _ := b.open(t, wanted, nil, engine.Node{Name: "node " + address, Platforms: []ocispecs.Platform{i386}, Open: open(ours)})
	_, err = b.build(t, eng, nil, "FROM busybox\nCOPY file /file\nRUN echo made >/made\n", engine.Variant{Platforms: wanted})
	require.NoError(t, err)

	for name, files := range map[string]engine.TLS{
		"no certificate of ours": {CA: ours.CA},
		"nobody knows ours":      {CA: ours.CA, Cert: theirs.Cert, Key: theirs.Key},
		"we do not know theirs":  {CA: theirs.CA, Cert: ours.Cert, Key: ours.Key},
		"no TLS":                 {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := open(files)(t.Context())
			require.Equal(t, fault.Unavailable, fault.KindOf(err), "%v", err)
			require.ErrorContains(t, err, address)
		})
	}
	_, err = open(engine.TLS{CA: filepath.Join(t.TempDir(), "missing.pem")})(t.Context())
	require.Equal(t, fault.Invalid, fault.KindOf(err), "%v", err)
	require.ErrorContains(t, err, "missing.pem")
}

// serveTLS takes connections of clients that the authority vouches for, and hands them on to the daemon.
func serveTLS(t *testing.T, authority *testbed.Authority, daemon string) (address string) {
	t.Helper()
	certPEM, keyPEM, err := authority.Issue("daemon")
	require.NoError(t, err)
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	require.NoError(t, err)
	clients := x509.NewCertPool()
	require.True(t, clients.AppendCertsFromPEM(authority.CertPEM))
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"},
		Certificates: []tls.Certificate{pair}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert,
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go handOn(conn, daemon)
		}
	}()
	return "tcp://" + listener.Addr().String()
}

func handOn(conn net.Conn, daemon string) {
	defer conn.Close()
	to, err := net.Dial("unix", strings.TrimPrefix(daemon, "unix://"))
	if err != nil {
		return
	}
	defer to.Close()
	go func() {
		_, _ = io.Copy(to, conn)
		_ = to.Close()
	}()
	_, _ = io.Copy(conn, to)
}

// writePEM writes what a client needs.
func writePEM(t *testing.T, authority *testbed.Authority) engine.TLS {
	t.Helper()
	cert, key, err := authority.Issue("client")
	require.NoError(t, err)
	dir := t.TempDir()
	files := engine.TLS{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	for path, data := range map[string][]byte{files.CA: authority.CertPEM, files.Cert: cert, files.Key: key} {
		require.NoError(t, os.WriteFile(path, data, 0o600))
	}
	return files
}
