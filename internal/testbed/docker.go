//go:build linux

package testbed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const (
	// dockerStartsWithin is how long an Engine may take to answer: a second on a quiet machine.
	dockerStartsWithin = time.Minute
	// dockerStopsWithin is how long it may take to end before it is killed.
	dockerStopsWithin = 30 * time.Second
)

// DockerKind is a Docker Engine with one of its image stores.
type DockerKind struct {
	Name       string
	dockerd    string // below .work/engines
	containerd *bool  // image store; nil: the Engine knows but the old one
}

// DockerKinds are the Engines that scripts/engines.sh gets.
func DockerKinds() []DockerKind {
	yes, no := true, false
	const debian, v28, v29 = "debian/usr/sbin/dockerd", "bin/dockerd-28", "bin/dockerd-29"
	return []DockerKind{
		{Name: "20.10", dockerd: debian},
		{Name: "28-legacy", dockerd: v28, containerd: &no},
		{Name: "28-containerd", dockerd: v28, containerd: &yes},
		{Name: "29-legacy", dockerd: v29, containerd: &no},
		{Name: "29-containerd", dockerd: v29, containerd: &yes},
	}
}

// Legacy tells whether the Engine has the old image store.
func (k DockerKind) Legacy() bool { return k.containerd == nil || !*k.containerd }

// DockerTCP has an Engine listen on a loopback port besides its socket.
type DockerTCP struct {
	CA, Cert, Key string // PEM files: who vouches for clients, and its own certificate; all empty is without TLS
}

// Docker is a running Engine.
type Docker struct {
	Host string // for DOCKER_HOST
	TCP  string // the same for its port, if it has one
	// Debian is the folder that Debian's docker.io and openssh-server are unpacked in.
	Debian string

	dir    string
	bridge string
	cmd    *exec.Cmd
	done   chan struct{} // closed when it has ended
}

// StartDocker starts an Engine that has nothing in common with any other on this machine: socket, data and settings are in a
// folder of its own, its containers have a bridge of their own, and it leaves the packet filter alone. It needs root. Close stops it
// and removes all of it.
func StartDocker(ctx context.Context, kind DockerKind, listen ...DockerTCP) (*Docker, error) {
	root, err := repositoryRoot()
	if err != nil {
		return nil, err
	}
	engines := filepath.Join(root, ".work", "engines")
	program := filepath.Join(engines, kind.dockerd)
	if _, err := os.Stat(program); err != nil {
		return nil, fmt.Errorf("start Docker Engine %s: %w; scripts/engines.sh gets it", kind.Name, err)
	}
	dir, err := os.MkdirTemp("", "docker-")
	if err != nil {
		return nil, err
	}
	d := &Docker{
		Host: "unix://" + filepath.Join(dir, "docker.sock"), Debian: filepath.Join(engines, "debian"),
		dir: dir, done: make(chan struct{}),
	}
	if d.bridge, err = layBridge(); err != nil {
		return nil, errors.Join(fmt.Errorf("start Docker Engine %s: %w", kind.Name, err), os.RemoveAll(dir))
	}
	if err := d.start(program, kind, listen); err != nil {
		return nil, errors.Join(fmt.Errorf("start Docker Engine %s: %w", kind.Name, err), removeBridge(d.bridge), os.RemoveAll(dir))
	}
	if err := d.wait(ctx); err != nil {
		said, _ := os.ReadFile(filepath.Join(dir, "log"))
		return nil, errors.Join(fmt.Errorf("start Docker Engine %s: %w\n%s", kind.Name, err, lastLines(said)), d.Close())
	}
	return d, nil
}

func (d *Docker) start(program string, kind DockerKind, listen []DockerTCP) error {
	settings := "{}"
	if kind.containerd != nil {
		settings = fmt.Sprintf(`{"features":{"containerd-snapshotter":%t}}`, *kind.containerd)
	}
	if err := os.WriteFile(filepath.Join(d.dir, "daemon.json"), []byte(settings), 0o600); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(d.dir, "log"))
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	d.cmd = exec.Command(program, "--config-file", filepath.Join(d.dir, "daemon.json"),
		"--data-root", filepath.Join(d.dir, "data"), "--exec-root", filepath.Join(d.dir, "exec"), "--pidfile", filepath.Join(d.dir, "pid"),
		"--host", d.Host, "--bridge", d.bridge, "--iptables=false", "--ip6tables=false", "--userland-proxy=false")
	for _, tcp := range listen {
		if d.TCP, err = freeAddress(); err != nil {
			return err
		}
		d.cmd.Args = append(d.cmd.Args, "--host", d.TCP)
		if tcp == (DockerTCP{}) {
			d.cmd.Args = append(d.cmd.Args, "--tls=false") // said on purpose: it starts at once
		} else {
			d.cmd.Args = append(d.cmd.Args, "--tlsverify", "--tlscacert", tcp.CA, "--tlscert", tcp.Cert, "--tlskey", tcp.Key)
		}
	}
	d.cmd.Env = append(os.Environ(), "PATH="+d.Bin()+":"+os.Getenv("PATH")+":/usr/sbin:/sbin", d.Libraries())
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:   true,            // a terminal's ^C goes to the test, which stops it in good order
		Pdeathsig: syscall.SIGTERM, // and a test that is killed takes it along
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // the signal is sent when the thread ends that started it
		err := d.cmd.Start()
		started <- err
		if err == nil {
			_ = d.cmd.Wait()
		}
		close(d.done)
	}()
	return <-started
}

// Bin is a folder with a docker command, for PATH.
func (d *Docker) Bin() string { return filepath.Join(d.Debian, "usr", "bin") }

// Libraries is the environment in which Debian's programs find their libraries.
func (d *Docker) Libraries() string {
	const triplet = "x86_64-linux-gnu"
	return "LD_LIBRARY_PATH=" + filepath.Join(d.Debian, "lib", triplet) + ":" + filepath.Join(d.Debian, "usr", "lib", triplet)
}

// wait polls until the Engine answers.
func (d *Docker) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dockerStartsWithin)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(d.dir, "docker.sock"))
	}}}
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/_ping", nil)
		if err != nil {
			return err
		}
		if answer, err := client.Do(request); err == nil {
			_ = answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-d.done:
			return errors.New("it ended")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Close stops the Engine and removes its folder.
func (d *Docker) Close() error {
	_ = d.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-d.done:
	case <-time.After(dockerStopsWithin):
		_ = d.cmd.Process.Kill()
		<-d.done
	}
	// 20.10 leaves a network namespace mounted, and every Engine its mounts when it was killed.
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	lines := strings.Split(string(mounts), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if fields := strings.Fields(lines[i]); len(fields) > 1 && strings.HasPrefix(fields[1], d.dir+"/") {
			_ = syscall.Unmount(fields[1], syscall.MNT_DETACH)
		}
	}
	return errors.Join(removeBridge(d.bridge), os.RemoveAll(d.dir))
}

// lastLines is the end of a log.
func lastLines(log []byte) []byte {
	const wanted = 5
	lines := bytes.Split(bytes.TrimSpace(log), []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-wanted):], []byte("\n"))
}
