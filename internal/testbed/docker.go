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
	"slices"
	"strconv"
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

// publishes tells whether ports of containers can be published: without a packet filter that takes a program, which is Debian's.
func (k DockerKind) publishes() bool { return strings.HasPrefix(k.dockerd, "debian/") }

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

	dir     string
	bridge  string
	program string
	kind    DockerKind
	listen  []DockerTCP
	cmd     *exec.Cmd
	done    chan struct{} // closed when it has ended
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
		dir: dir, program: program, kind: kind, listen: listen,
	}
	if d.bridge, err = layBridge(); err != nil {
		return nil, errors.Join(fmt.Errorf("start Docker Engine %s: %w", kind.Name, err), os.RemoveAll(dir))
	}
	if err := d.start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start Docker Engine %s: %w", kind.Name, err), removeBridge(d.bridge), os.RemoveAll(dir))
	}
	if err := d.answers(ctx); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// Restart starts an Engine again that Kill has ended, with all that it had.
func (d *Docker) Restart(ctx context.Context) error {
	if err := d.start(); err != nil {
		return fmt.Errorf("start Docker Engine %s again: %w", d.kind.Name, err)
	}
	return d.answers(ctx)
}

// Kill ends the Engine and everything in its containers at once, as when a machine loses its power: what it has in memory only is gone.
func (d *Docker) Kill() error {
	own := func(argv []string) bool { // the Engine, its containerd, and what holds its containers
		return slices.ContainsFunc(argv, func(argument string) bool { return strings.HasPrefix(argument, d.dir+"/") })
	}
	for range 2 { // the second time, for what was just being started
		for _, process := range descendants(own) {
			_ = syscall.Kill(process, syscall.SIGKILL) // it may have ended
		}
	}
	<-d.done
	return errors.Join(d.unmount(), os.RemoveAll(filepath.Join(d.dir, "exec")), os.RemoveAll(filepath.Join(d.dir, "pid")))
}

// unmount takes away what is mounted in the Engine's folder.
func (d *Docker) unmount() error {
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
	return nil
}

// descendants are the processes of these command lines, and those that they started.
func descendants(matches func(argv []string) bool) []int {
	children, found := map[int][]int{}, []int{}
	paths, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is right
	for _, path := range paths {
		process, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		stat, _ := os.ReadFile(path) // it may have ended
		_, after, _ := strings.Cut(string(stat), ") ")
		if fields := strings.Fields(after); len(fields) > 1 {
			parent, _ := strconv.Atoi(fields[1])
			children[parent] = append(children[parent], process)
		}
		line, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		if matches(strings.Split(string(line), "\x00")) && process != os.Getpid() {
			found = append(found, process)
		}
	}
	for i := 0; i < len(found); i++ {
		for _, child := range children[found[i]] {
			if !slices.Contains(found, child) {
				found = append(found, child)
			}
		}
	}
	return found
}

func (d *Docker) start() (err error) {
	d.done = make(chan struct{})
	settings := "{}"
	if kind := d.kind; kind.containerd != nil {
		settings = fmt.Sprintf(`{"features":{"containerd-snapshotter":%t}}`, *kind.containerd)
	}
	if err := os.WriteFile(filepath.Join(d.dir, "daemon.json"), []byte(settings), 0o600); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(d.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	d.cmd = exec.Command(d.program, "--config-file", filepath.Join(d.dir, "daemon.json"),
		"--data-root", filepath.Join(d.dir, "data"), "--exec-root", filepath.Join(d.dir, "exec"), "--pidfile", filepath.Join(d.dir, "pid"),
		"--host", d.Host, "--bridge", d.bridge, "--iptables=false", "--ip6tables=false", fmt.Sprintf("--userland-proxy=%t", d.kind.publishes()))
	for _, tcp := range d.listen {
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
	d.cmd.Env = append(os.Environ(), "PATH="+d.Bin()+":"+filepath.Join(d.Debian, "usr", "sbin")+":"+os.Getenv("PATH")+":/usr/sbin:/sbin", d.Libraries())
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

// answers awaits the Engine's first answer. An error has the end of its log.
func (d *Docker) answers(ctx context.Context) error {
	if err := d.wait(ctx); err != nil {
		said, _ := os.ReadFile(filepath.Join(d.dir, "log"))
		return fmt.Errorf("start Docker Engine %s: %w\n%s", d.kind.Name, err, lastLines(said))
	}
	return nil
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

// sweep removes all containers and networks: the bridge of a network would outlive the Engine, and lead its addresses astray.
func (d *Docker) sweep() {
	for _, command := range []string{"docker ps --all --quiet | xargs -r docker rm --force", "docker network prune --force"} {
		cmd := exec.Command("sh", "-c", command)
		cmd.Env = append(os.Environ(), "DOCKER_HOST="+d.Host, "PATH="+d.Bin()+":"+os.Getenv("PATH"))
		_ = cmd.Run() // it may have ended
	}
}

// Close stops the Engine and removes its folder.
func (d *Docker) Close() error {
	d.sweep()
	_ = d.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-d.done:
	case <-time.After(dockerStopsWithin):
		_ = d.cmd.Process.Kill()
		<-d.done
	}
	// 20.10 leaves a network namespace mounted, and every Engine its mounts when it was killed.
	err := d.unmount()
	return errors.Join(err, removeBridge(d.bridge), os.RemoveAll(d.dir))
}

// lastLines is the end of a log.
func lastLines(log []byte) []byte {
	const wanted = 5
	lines := bytes.Split(bytes.TrimSpace(log), []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-wanted):], []byte("\n"))
}
