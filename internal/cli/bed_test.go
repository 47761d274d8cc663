package cli_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/rogpeppe/go-internal/testscript"

	"imagebuilder/internal/result"
	"imagebuilder/internal/testbed"
	"imagebuilder/schemas"
)

// repositories is the folder, in a script's own, with the repositories that its git server has.
const repositories = ".repositories"

// account splits "user:password" that may follow a command.
func account(ts *testscript.TestScript, args []string) (user, password string) {
	if len(args) == 0 {
		return "", ""
	}
	user, password, ok := strings.Cut(args[0], ":")
	if !ok || len(args) > 1 {
		ts.Fatalf("usage: COMMAND [USER:PASSWORD]")
	}
	return user, password
}

// registry [-tls] [-all] [USER:PASSWORD] starts an image registry with the base images base/busybox:1 and base/other:1
// in it and sets REGISTRY. A second call starts another one. With -tls it has a certificate of its own, whose authority
// is written to registry-ca.pem; with -all the bases are there for all platforms and not just for two that need
// no emulation.
func registry(ts *testscript.TestScript, _ bool, args []string) {
	var options testbed.RegistryOptions
	bases := testbed.BaseOptions{Platforms: []string{"linux/amd64", "linux/386"}}
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		switch args[0] {
		case "-tls":
			options.TLS = true
		case "-all":
			bases.Platforms = testbed.BasePlatforms()
		default:
			ts.Fatalf("unknown flag %s", args[0])
		}
		args = args[1:]
	}
	if user, password := account(ts, args); user != "" {
		options.Basic = map[string]string{user: password}
		bases.Options = []remote.Option{remote.WithAuth(&authn.Basic{Username: user, Password: password})}
	}
	r, err := testbed.StartRegistry(options)
	ts.Check(err)
	ts.Defer(func() { _ = r.Close() })
	if options.TLS {
		ts.Check(os.WriteFile(ts.MkAbs("registry-ca.pem"), r.CAPEM, 0o600))
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(r.CAPEM)
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
		ts.Defer(transport.CloseIdleConnections)
		bases.Transport = transport
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err = testbed.PushBases(ctx, r.Host, bases)
	ts.Check(err)
	ts.Setenv("REGISTRY", r.Host)
}

// sample writes the sample repository that comes with image-builder to a folder.
func sample(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: sample FOLDER")
	}
	files, err := fs.Sub(schemas.Examples(), "sample-repo")
	ts.Check(err)
	ts.Check(os.CopyFS(ts.MkAbs(args[0]), files))
}

// files FOLDER serves a folder over HTTP and sets FILES to its URL.
func files(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: files FOLDER")
	}
	s := httptest.NewServer(http.FileServer(http.Dir(ts.MkAbs(args[0]))))
	ts.Defer(s.Close)
	ts.Setenv("FILES", s.URL)
}

// gitServer [USER:PASSWORD] serves the script's repositories over HTTP and sets GIT to the URL that they are below.
func gitServer(ts *testscript.TestScript, _ bool, args []string) {
	user, password := account(ts, args)
	root := filepath.Join(ts.Getenv("WORK"), repositories)
	ts.Check(os.MkdirAll(root, 0o755))
	s, err := testbed.StartGit(root, testbed.GitOptions{User: user, Password: password})
	ts.Check(err)
	ts.Defer(s.Close)
	ts.Setenv("GIT", s.URL)
}

// repo NAME FOLDER makes a repository of a folder and sets COMMIT.
func repo(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: repo NAME FOLDER")
	}
	root := filepath.Join(ts.Getenv("WORK"), repositories)
	ts.Check(os.MkdirAll(root, 0o755))
	commit, err := testbed.InitRepo(os.DirFS(ts.MkAbs(args[1])), filepath.Join(root, args[0]), testbed.RepoOptions{})
	ts.Check(err)
	ts.Setenv("COMMIT", commit)
}

// engine sets BUILDKIT_HOST to the BuildKit daemon that all tests share.
func engine(ts *testscript.TestScript, _ bool, _ []string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	address, release, err := testbed.StartEngine(ctx)
	ts.Check(err)
	ts.Defer(release)
	ts.Setenv("BUILDKIT_HOST", address)
}

// node sets NODE to a second BuildKit daemon.
func node(ts *testscript.TestScript, _ bool, _ []string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	address, release, err := testbed.StartNode(ctx)
	ts.Check(err)
	ts.Defer(release)
	ts.Setenv("NODE", address)
}

// expand FILE... replaces $NAME in files by the script's variables.
func expand(ts *testscript.TestScript, _ bool, args []string) {
	for _, file := range args {
		text := os.Expand(ts.ReadFile(file), ts.Getenv)
		ts.Check(os.WriteFile(ts.MkAbs(file), []byte(text), 0o600))
	}
}

// served FILE asks the registry for everything that a result in JSON says is there.
func served(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: served FILE")
	}
	var r result.Result
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &r))
	if len(r.Images) == 0 {
		ts.Fatalf("the result has no images")
	}
	for _, image := range r.Images {
		if image.Error != nil {
			continue
		}
		ref, err := name.ParseReference(image.Ref)
		ts.Check(err)
		found, err := remote.Get(ref)
		ts.Check(err)
		if found.Digest.String() != image.Digest {
			ts.Fatalf("%s has the digest %s, the result says %s", image.Ref, found.Digest, image.Digest)
		}
		for _, p := range image.Platforms {
			platform, err := v1.ParsePlatform(p.Platform)
			ts.Check(err)
			one, err := remote.Image(ref, remote.WithPlatform(*platform))
			ts.Check(err)
			digest, err := one.Digest()
			ts.Check(err)
			if digest.String() != p.Digest {
				ts.Fatalf("%s for %s has the digest %s, the result says %s", image.Ref, p.Platform, digest, p.Digest)
			}
		}
	}
}

// untagged REF... wants no image under these references.
func untagged(ts *testscript.TestScript, _ bool, args []string) {
	for _, arg := range args {
		ref, err := name.ParseReference(arg)
		ts.Check(err)
		if found, err := remote.Head(ref); err == nil {
			ts.Fatalf("%s is there: %s", arg, found.Digest)
		}
	}
}
