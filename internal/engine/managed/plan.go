//go:build linux

package managed

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"imagebuilder/internal/fault"
)

const (
	// maxSocketPath is what Linux takes for the path of a unix socket: sun_path has 108 bytes, one for the end.
	maxSocketPath = 107
	// longestSocket is the longest name that is made below the run folder.
	longestSocket = "rootlesskit/api.sock"
	// runSuffix is how many characters tell one run folder from the next.
	runSuffix = 8
	// minFree is where the cache gives way to a disk that is nearly full, in bytes.
	minFree = 1 << 30
	// systemPath is where Debian keeps runc, which a user's PATH leaves out.
	systemPath = "/usr/local/sbin:/usr/sbin:/sbin"
)

// plan is all that a supervisor needs to know. The one who starts it writes it to plan.json.
type plan struct {
	Config
	RunDir      string // sockets and what lives as long as the daemon
	Buildkitd   string
	Rootlesskit string
	User        string // rootless only: who we are
}

// newPlan looks for the programs and says what is missing.
func newPlan(cfg Config) (plan, error) {
	p := plan{Config: cfg, RunDir: cfg.newRunDir(), Buildkitd: cfg.find("buildkitd")}
	missing := problems(cfg)
	if *cfg.Rootless {
		p.Rootlesskit = cfg.find("rootlesskit")
		p.User = userName()
	}
	if len(missing) > 0 {
		var what, hints []string
		for _, m := range missing {
			what = append(what, m.Message)
			if !slices.Contains(hints, m.Hint) {
				hints = append(hints, m.Hint)
			}
		}
		return p, fault.New(fault.NotFound, "start the managed engine: %s", strings.Join(what, "; ")).WithHint("%s", strings.Join(hints, "; "))
	}
	return p, nil
}

// problems says what the daemon would lack on this machine.
func problems(cfg Config) []Problem {
	const ours = "`make setup` in the sources of image-builder builds it; put it beside image-builder, or on PATH"
	need := []struct{ name, hint string }{
		{"buildkitd", ours},
		{"runc", "apt-get install runc (as root)"},
	}
	if *cfg.Rootless {
		need = append(need, []struct{ name, hint string }{
			{"rootlesskit", ours + "; or apt-get install rootlesskit (as root)"},
			{"newuidmap", "apt-get install uidmap (as root)"},
			{"newgidmap", "apt-get install uidmap (as root)"},
		}...)
	}
	var out []Problem
	for _, n := range need {
		if cfg.find(n.name) == "" {
			out = append(out, Problem{Message: n.name + " is missing", Hint: n.hint})
		}
	}
	if *cfg.Rootless {
		out = append(out, namespaceProblems()...)
	}
	return out
}

// namespaceProblems says why an unprivileged user could not have a user namespace.
func namespaceProblems() []Problem {
	var out []Problem
	for _, file := range []string{"/etc/subuid", "/etc/subgid"} {
		if !hasSubordinateIDs(file) {
			out = append(out, Problem{
				Message: fmt.Sprintf("%s gives no ids to %s", file, userName()),
				Hint:    fmt.Sprintf("usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s (as root)", userName()),
			})
		}
	}
	if data, err := os.ReadFile("/proc/sys/kernel/unprivileged_userns_clone"); err == nil && strings.TrimSpace(string(data)) == "0" {
		out = append(out, Problem{Message: "this machine forbids user namespaces", Hint: "sysctl kernel.unprivileged_userns_clone=1 (as root)"})
	}
	return out
}

func hasSubordinateIDs(file string) bool {
	data, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	uid := strconv.Itoa(os.Getuid())
	for line := range strings.Lines(string(data)) {
		name, _, _ := strings.Cut(line, ":")
		if name == userName() || name == uid {
			return true
		}
	}
	return false
}

// userName is who we are; rootless BuildKit takes itself for the system's daemon when USER is not set.
func userName() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return "uid-" + strconv.Itoa(os.Getuid())
}

// find gives the path of a program, or "": as configured, beside our own executable, on PATH.
func (c Config) find(name string) string {
	configured := map[string]string{"buildkitd": c.BuildkitdPath, "rootlesskit": c.RootlesskitPath}[name]
	if configured != "" {
		path, _ := exec.LookPath(configured)
		return path
	}
	if exe, err := os.Executable(); err == nil {
		if path, err := exec.LookPath(filepath.Join(filepath.Dir(exe), name)); err == nil {
			return path
		}
	}
	for _, dir := range filepath.SplitList(os.Getenv("PATH") + ":" + systemPath) {
		if !filepath.IsAbs(dir) {
			continue
		}
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	return ""
}

// runDirs is the beginning of the run folders' paths: inside the state folder, or, where a socket's
// path would be too long, in the system's temporary folder.
func (c Config) runDirs() string {
	dirs := filepath.Join(c.StateDir, "run-")
	if len(dirs)+runSuffix+1+len(longestSocket) <= maxSocketPath {
		return dirs
	}
	return filepath.Join("/tmp", "image-builder-"+strconv.Itoa(os.Getuid())+"-"+c.hash()+"-")
}

// newRunDir is a new one for each daemon: one that ends removes its socket, which must not be
// another's by then.
func (c Config) newRunDir() string {
	return fmt.Sprintf("%s%0*x", c.runDirs(), runSuffix, rand.Uint32())
}

// hash tells state folders apart where names are short.
func (c Config) hash() string {
	sum := sha256.Sum256([]byte(c.StateDir))
	return hex.EncodeToString(sum[:6])
}

// cgroup is the parent of the containers' cgroups: daemons side by side must not meet there.
func (c Config) cgroup() string { return "image-builder-" + c.hash() }

func (p plan) socket() string { return filepath.Join(p.RunDir, "buildkitd.sock") }

// makeRunDir makes the run folder, which only we can enter, and removes those that killed
// supervisors have left. In a temporary folder, which is open to everybody, one that exists is an error.
func (p plan) makeRunDir() error {
	parent, prefix := filepath.Split(p.runDirs())
	old, err := os.ReadDir(parent)
	if err != nil {
		return err
	}
	for _, entry := range old {
		if strings.HasPrefix(entry.Name(), prefix) {
			_ = os.RemoveAll(filepath.Join(parent, entry.Name()))
		}
	}
	return os.Mkdir(p.RunDir, 0o700)
}

// environment is what the daemon sees of a user's environment: where programs and proxies are, and
// nothing else. It outlives its user, whose environment may hold secrets.
func (p plan) environment(of []string) []string {
	keep := []string{
		"HOME", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR",
		"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy",
	}
	path := systemPath
	var env []string
	for _, e := range of {
		name, value, _ := strings.Cut(e, "=")
		if name == "PATH" {
			path = value + ":" + systemPath
		}
		if slices.Contains(keep, name) {
			env = append(env, e)
		}
	}
	env = append(env, "PATH="+path,
		// A step's output arrives whole. Unasked, buildkitd clips what is beyond 2 MiB, and beyond 200 KiB a second.
		"BUILDKIT_STEP_LOG_MAX_SIZE=-1", "BUILDKIT_STEP_LOG_MAX_SPEED=-1")
	if *p.Rootless {
		env = append(env, "USER="+p.User, "XDG_RUNTIME_DIR="+p.RunDir)
	}
	return env
}

// buildkitd is the daemon's argv. Paths are flags, and everything else stands in the configuration.
func (p plan) buildkitd() []string {
	return []string{
		p.Buildkitd, "--config", filepath.Join(p.RunDir, "buildkitd.toml"), "--root", p.cacheDir(),
		"--addr", "unix://" + p.socket(), "--otel-socket-path", filepath.Join(p.RunDir, "otel.sock"),
	}
}

// configuration is the daemon's buildkitd.toml.
func (p plan) configuration() string {
	var b strings.Builder
	fmt.Fprintf(&b, `# Written by image-builder at %s for %s.
[log]
  format = "text"
  level = "info"
[cdi]
  disabled = true
[worker.containerd]
  enabled = false
[worker.oci]
  enabled = true
  snapshotter = "auto"
  networkMode = "host" # RUN sees the network as the user does; nothing is configured for it
  max-parallelism = %d
  gc = true
  maxUsedSpace = %d
  minFreeSpace = %d
`, time.Now().Format(time.RFC3339), p.StateDir, max(4, 2*runtime.NumCPU()), p.CacheCap, minFree)
	if !*p.Rootless {
		fmt.Fprintf(&b, "  defaultCgroupParent = %q\n", p.cgroup())
	}
	return b.String()
}
