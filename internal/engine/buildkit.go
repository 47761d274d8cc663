package engine

import (
	"context"
	"errors"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/platforms"
	bk "github.com/moby/buildkit/client"
	_ "github.com/moby/buildkit/client/connhelper/dockercontainer" // docker-container://NAME
	_ "github.com/moby/buildkit/client/connhelper/kubepod"         // kube-pod://NAME
	_ "github.com/moby/buildkit/client/connhelper/podmancontainer" // podman-container://NAME
	_ "github.com/moby/buildkit/client/connhelper/ssh"             // ssh://HOST
	"github.com/moby/buildkit/session"
	sessioncontent "github.com/moby/buildkit/session/content"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tonistiigi/fsutil"

	"imagebuilder/internal/fault"
)

// answerWithin is how long a daemon may take to answer the first question. A running one needs
// milliseconds; one that is just being started in a pod needs seconds.
const answerWithin = 15 * time.Second

// BuildKit is a BuildKit daemon at an address.
type BuildKit struct {
	// NoHistory keeps builds out of the daemon's own records, which takes it some milliseconds of each: for a daemon that
	// nobody asks for them. Set it before the first Open.
	NoHistory bool
	// Turns are for a daemon whose processors we know; nil packs everything at once. Set them before the first Open.
	Turns *Turns

	name    string
	address string
	workers []*bk.WorkerInfo
	client  *bk.Client
	release func()
	export  func(Variant) bk.ExportEntry // how an image leaves the daemon, unless as a layout
}

// TLS holds the PEM files for a tcp:// daemon; all empty means no TLS.
type TLS struct{ CA, Cert, Key string }

// Dial connects to the daemon at a BUILDKIT_HOST address (unix://, tcp://, docker-container://,
// kube-pod://, podman-container://, ssh://) and waits until it answers. release, if not nil, is called by Close.
func Dial(ctx context.Context, name, address string, tls TLS, release func()) (*BuildKit, error) {
	opts, err := dialOptions(address, tls)
	if err != nil {
		return nil, err
	}
	client, err := bk.New(ctx, address, opts...)
	if err != nil {
		return nil, fault.New(fault.Invalid, "buildkit address %s: %w", address, err)
	}
	b := &BuildKit{name: name, address: address, client: client, release: release, export: pushByDigest}
	if err := b.ask(ctx); err != nil {
		_ = client.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fault.New(fault.Unavailable, "buildkit at %s does not answer: %w", address, err).
			WithHint("is buildkitd running there, and does this address reach it?")
	}
	return b, nil
}

// ask waits until the daemon says which workers it has.
func (b *BuildKit) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	workers, err := b.client.ListWorkers(ctx)
	if err == nil && len(workers) == 0 {
		err = errors.New("it has no workers")
	}
	b.workers = workers
	return err
}

// dialOptions make a tcp connection notice that its link was cut: BuildKit's own client would wait forever.
func dialOptions(address string, tls TLS) ([]bk.ClientOpt, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme == "" {
		return nil, fault.New(fault.Invalid, "buildkit address %q has no scheme", address).
			WithHint("give unix:///path/to/buildkitd.sock or tcp://host:port")
	}
	var opts []bk.ClientOpt
	if u.Scheme == "tcp" {
		dialer := watchedDialer()
		opts = append(opts, bk.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", u.Host)
		}))
	}
	if tls.CA != "" {
		opts = append(opts, bk.WithServerConfig(u.Hostname(), tls.CA))
	}
	if tls.Cert != "" || tls.Key != "" {
		opts = append(opts, bk.WithCredentials(tls.Cert, tls.Key))
	}
	return opts, nil
}

// Name is what the user calls this engine.
func (b *BuildKit) Name() string { return b.name }

// Pushes tells that the daemon pushes itself.
func (b *BuildKit) Pushes() bool { return true }

// Address is where the daemon is.
func (b *BuildKit) Address() string { return b.address }

// Platform is the first platform of the daemon's first worker, which is its own, as BuildKit's frontend takes it.
func (b *BuildKit) Platform(ocispecs.Platform) ocispecs.Platform {
	if claimed := b.workers[0].Platforms; len(claimed) > 0 {
		return platforms.Normalize(claimed[0])
	}
	return platforms.Normalize(platforms.DefaultSpec())
}

// Alive asks whether the daemon still answers.
func (b *BuildKit) Alive(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, aliveWithin)
	defer cancel()
	_, err := b.client.ListWorkers(ctx)
	return err == nil
}

// Version is the daemon's own version, "" when it does not tell.
func (b *BuildKit) Version(ctx context.Context) string {
	info, err := b.client.Info(ctx)
	if err != nil {
		return ""
	}
	return info.BuildkitVersion.Version
}

// Close disconnects.
func (b *BuildKit) Close() error {
	err := b.client.Close()
	if b.release != nil {
		b.release()
	}
	return err
}

// Open starts a BuildKit session that serves the context, the Dockerfile, secrets and credentials.
func (b *BuildKit) Open(ctx context.Context, src Source) (Session, error) {
	shared, err := session.NewSession(ctx, src.ContextKey)
	if err != nil {
		return nil, fault.New(fault.Internal, "open a session: %w", err)
	}
	attach := b.attachables(src)
	for _, a := range attach {
		shared.Allow(a)
	}
	if src.Bases != nil {
		shared.Allow(sessioncontent.NewAttachable(map[string]content.Store{"oci:" + basesStore: src.Bases}))
	}
	// The session outlives the caller's deadline for opening it, and ends with Close.
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = shared.Run(running, b.client.Dialer()) // its end shows in the builds that use it
	}()
	return &buildKitSession{
		engine: b, source: src, shared: shared, attach: attach, logs: newLogFilter(),
		close: func() error {
			err := shared.Close()
			cancel()
			<-done
			return err
		},
	}, nil
}

func (b *BuildKit) attachables(src Source) []session.Attachable {
	return []session.Attachable{
		filesync.NewFSSyncProvider(filesync.StaticDirSource(map[string]fsutil.FS{
			"context":    src.Context,
			"dockerfile": dockerfileFS(src),
		})),
		secretsprovider.FromMap(src.Secrets),
		&credentialServer{lookup: src.Credentials},
	}
}

// gone tells whether an error means that the daemon or the link to it is no more.
func gone(err error) bool {
	if unreachable(err) {
		return true
	}
	s := err.Error()
	for _, sign := range []string{
		"error reading from server", "transport is closing", "connection reset by peer", "keepalive ping failed",
		"use of closed network connection", "code = Unavailable", "connection timed out", "no active session",
	} {
		if strings.Contains(s, sign) {
			return true
		}
	}
	return false
}

// unreachable tells whether an error comes of a new connection to the daemon; a refusal that the daemon itself met,
// at a registry for example, is worded differently.
func unreachable(err error) bool {
	return strings.Contains(err.Error(), "transport: Error while dialing")
}
