//go:build linux

package testbed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	// openStackPoll is how often the lock is tried.
	openStackPoll = 200 * time.Millisecond
	// openStackLets is how long a command for it may go on after its context has ended.
	openStackLets = 10 * time.Second
)

// OpenStack is a real one on this machine, which scripts/openstack makes. All test programs share it, so that everything a test makes
// should have a name of its own. What is in it stays when a test ends.
type OpenStack struct {
	CloudsFile string // clouds.yaml, for OS_CLIENT_CONFIG_FILE
	// Names in it of the project demo's user, who makes servers, and of who may do anything.
	Cloud, AdminCloud string
	// Network is one for servers that this machine reaches directly, and the pool of floating addresses; PrivateNetwork is behind a
	// router: servers there are reached by a floating address.
	Network, PrivateNetwork string
	Gateway                 string // this machine's address on Network, and what servers there see its connections come from
	Images                  OpenStackImages
	Flavors                 OpenStackFlavors
	User                    string // who logs in to servers, by SSH; sudo asks nothing
	KeyName, KeyFile        string // a key pair of Cloud's user, and the file with its private key

	bed  string   // the script
	lock *os.File // held while it is in use
}

// OpenStackImages are names of images.
type OpenStackImages struct {
	Debian string // Debian 12
	Docker string // with Debian's Docker Engine on it
}

// OpenStackFlavors are names of flavours. They do not limit what a server may use of this machine, but where they say so.
type OpenStackFlavors struct {
	Tiny, Small string
	Full        string // 300 MB for /var/lib/docker
	Nowhere     string // no host can have such a server
}

// StartOpenStack gives the OpenStack, and starts it if it does not run: half a minute, and some minutes more the first time, when its
// parts are got. One that was started here ends by itself a minute after the last test program has closed it or ended; one that
// `scripts/openstack/bed.sh up` has started stays. It needs root.
func StartOpenStack(ctx context.Context) (*OpenStack, error) {
	root, err := RepoRoot()
	if err != nil {
		return nil, err
	}
	state := filepath.Join(root, ".work", "openstack")
	o := &OpenStack{
		CloudsFile: filepath.Join(state, "clouds.yaml"), Cloud: "demo", AdminCloud: "admin", User: "debian",
		Network: "provider", PrivateNetwork: "private", Gateway: "10.79.0.1",
		KeyName: "tests", KeyFile: filepath.Join(state, "state", "key"),
		Images:  OpenStackImages{Debian: "debian-12", Docker: "debian-12-docker"},
		Flavors: OpenStackFlavors{Tiny: "m1.tiny", Small: "m1.small", Full: "m1.full", Nowhere: "m1.nowhere"},
		bed:     filepath.Join(root, "scripts", "openstack", "bed.sh"),
	}
	if o.lock, err = holdOpenStack(ctx, filepath.Join(state, "run", "users")); err != nil {
		return nil, fmt.Errorf("start OpenStack: %w", err)
	}
	if _, err := o.run(ctx, "lend"); err != nil {
		return nil, errors.Join(fmt.Errorf("start OpenStack: %w", err), o.Close())
	}
	return o, nil
}

// holdOpenStack says that this process uses the OpenStack. One that is ending by itself is waited for.
func holdOpenStack(ctx context.Context, path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // G304: a path of ours
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(err, file.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), file.Close())
		case <-time.After(openStackPoll):
		}
	}
}

// Close says that this process does not need it any more. That it has ended says so too.
func (o *OpenStack) Close() error { return o.lock.Close() }

// Environ is what programs need in their environment to act as Cloud.
func (o *OpenStack) Environ() []string {
	return []string{"OS_CLIENT_CONFIG_FILE=" + o.CloudsFile, "OS_CLOUD=" + o.Cloud}
}

// Crash ends everything in a server at once, as a power cut does, and starts the server again with the disk as it was. It takes the
// server's name or id, and does not wait for the server to answer.
func (o *OpenStack) Crash(t T, server string) {
	t.Helper()
	if _, err := o.run(context.Background(), "crash", server); err != nil {
		t.Fatalf("%v", err)
	}
}

// DeleteServer deletes a server by its name or id, as somebody else would have done, and waits until it is gone.
func (o *OpenStack) DeleteServer(t T, server string) {
	t.Helper()
	if _, err := o.Command(context.Background(), o.Cloud, "server", "delete", "--wait", server); err != nil {
		t.Fatalf("%v", err)
	}
}

// Command runs OpenStack's command line as one of the clouds, and gives what it prints: `openstack ARGS`. Each takes some seconds.
func (o *OpenStack) Command(ctx context.Context, cloud string, args ...string) (string, error) {
	return o.runAs(ctx, cloud, append([]string{"openstack"}, args...)...)
}

// Inside runs a command as root among OpenStack's own programs, and gives what it prints. Servers' namespaces and file systems are
// seen there.
func (o *OpenStack) Inside(ctx context.Context, argv ...string) (string, error) {
	return o.run(ctx, append([]string{"exec"}, argv...)...)
}

// Listing is all that somebody has made in any project and whose name has this part, sorted; with "" it is all of all. Each is a line
// of its kind, its project, its name and its id: server, volume, floating-ip, router, port, network, security-group or keypair. A port without
// a name has that of its server, and a floating-ip that of the server that it leads to.
func (o *OpenStack) Listing(t T, part string) []string {
	t.Helper()
	out, err := o.run(context.Background(), "list")
	if err != nil {
		t.Fatalf("%v", err)
	}
	all := []string{}
	for line := range strings.Lines(out) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(fields) != 4 {
			t.Fatalf("list what is in OpenStack: %q is not four fields", line)
		}
		if strings.Contains(fields[2], part) {
			all = append(all, strings.Join(fields, " "))
		}
	}
	slices.Sort(all)
	return all
}

func (o *OpenStack) run(ctx context.Context, args ...string) (string, error) {
	return o.runAs(ctx, o.Cloud, args...)
}

// runAs runs the script, and gives what it prints.
func (o *OpenStack) runAs(ctx context.Context, cloud string, args ...string) (string, error) {
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, o.bed, args...) //nolint:gosec // G204: a script of ours
	cmd.Env = append(os.Environ(), "OS_CLOUD="+cloud)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &errs, openStackLets
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %s", o.bed, strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}
