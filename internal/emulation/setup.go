package emulation

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"imagebuilder/internal/fault"
)

// Command sets emulation up; only root may.
const Command = "image-builder doctor --fix"

// Package is what Debian and its relatives call the emulators.
const Package = "qemu-user-static"

// Machine is where emulation is set up.
type Machine struct {
	Binfmt string   // where binfmt_misc is mounted, or is to be
	Confs  []string // folders with what can be registered, as binfmt.d(5) has them; the first that has a file wins
	// Blind is a container that does not see what is registered on the machine, although it serves the container too.
	Blind bool
}

// ThisMachine is the machine that we run on.
func ThisMachine() Machine {
	return Machine{
		Binfmt: BinfmtDir,
		Confs:  []string{"/etc/binfmt.d", "/run/binfmt.d", "/usr/local/lib/binfmt.d", "/usr/lib/binfmt.d", "/lib/binfmt.d"},
		Blind:  inContainer() && !exists(filepath.Join(BinfmtDir, "status")),
	}
}

// inContainer tells whether Docker or Podman has put a container around us.
func inContainer() bool { return exists("/.dockerenv") || exists("/run/.containerenv") }

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// Missing are those of the usual platforms that this machine runs neither itself nor by emulation.
func (m Machine) Missing() []ocispecs.Platform {
	able := m.Runs()
	return slices.DeleteFunc(Usual(), func(p ocispecs.Platform) bool { return Contains(able, p) })
}

// Runs are the platforms that this machine runs itself or by emulation.
func (m Machine) Runs() []ocispecs.Platform {
	return slices.Concat(Native(), Emulated(os.DirFS(m.Binfmt)))
}

// Remedy is the command, or the commands, that set emulation up here.
func (m Machine) Remedy() string {
	if len(m.offered()) == 0 {
		return asRoot("apt-get install "+Package) + " && " + asRoot(Command)
	}
	return asRoot(Command)
}

// asRoot is how we run a command as root.
func asRoot(command string) string {
	if os.Geteuid() == 0 {
		return command
	}
	return "sudo " + command
}

// offered are the interpreters for foreign programs that the distribution has.
func (m Machine) offered() []entry {
	var found []entry
	own := Native()
	seen := map[string]bool{}
	for _, dir := range m.Confs {
		files, err := filepath.Glob(filepath.Join(dir, "*.conf"))
		if err != nil {
			continue
		}
		for _, file := range files {
			if seen[filepath.Base(file)] {
				continue
			}
			seen[filepath.Base(file)] = true
			data, err := os.ReadFile(file)
			if err != nil {
				continue
			}
			for line := range strings.Lines(string(data)) {
				e, ok := parseConf(line)
				// An emulator of the machine's own programs would make all of them slow, itself included.
				if ok && !Contains(own, parse(emulators[e.program])[0]) {
					found = append(found, e)
				}
			}
		}
	}
	return found
}

// Setup registers the interpreters that the distribution has and that are not registered, with the flag F, after it
// has mounted binfmt_misc where it is not. What is registered already is left as it is, and nothing is ever
// removed: doing it again changes nothing. It returns the names of what it registered.
//
// It fails with Denied when we may not, and with NotFound when the emulators or the kernel's part are not there. An
// interpreter that is in the way, because it was registered otherwise or switched off, is Invalid and named.
func (m Machine) Setup() ([]string, error) {
	if runtime.GOOS != "linux" {
		return nil, fault.New(fault.NotFound, "set up emulation: %s has no binfmt_misc: emulation belongs on the machine where builds run", runtime.GOOS).
			WithHint("on that machine: sudo %s", Command)
	}
	offered := m.offered()
	if len(offered) == 0 {
		if len(m.Missing()) == 0 {
			return nil, nil
		}
		return nil, fault.New(fault.NotFound, "set up emulation: no emulators are installed").WithHint("%s", m.Remedy())
	}
	if _, err := os.Stat(m.register()); err != nil {
		if err := m.mount(); err != nil {
			return nil, err
		}
	}
	var registered []string
	var wrong []error
	for _, e := range offered {
		did, err := m.add(e)
		if err != nil {
			wrong = append(wrong, err)
		} else if did {
			registered = append(registered, e.name)
		}
	}
	return registered, first(wrong)
}

func (m Machine) register() string { return filepath.Join(m.Binfmt, "register") }

// add registers an interpreter unless there is one for these programs.
func (m Machine) add(e entry) (bool, error) {
	had, err := m.registered(e)
	if had || err != nil {
		return false, err
	}
	err = os.WriteFile(m.register(), []byte(e.line), 0)
	if errors.Is(err, fs.ErrExist) { // somebody else did it in this moment
		_, err = m.registered(e)
		return false, err
	}
	if err != nil {
		return false, m.refused("register "+e.name, err)
	}
	return true, nil
}

// registered tells whether there is a usable interpreter for the programs of e. One that is in the way is an error.
func (m Machine) registered(e entry) (bool, error) {
	var inTheWay error
	for _, there := range entries(os.DirFS(m.Binfmt)) {
		switch {
		case there.program != e.program:
		case there.usable():
			return true, nil
		case !there.enabled:
			inTheWay = fault.New(fault.Invalid, "set up emulation: %s is switched off", there.name).
				WithHint("as root: echo 1 >%s; echo 1 >%s", filepath.Join(m.Binfmt, there.name), filepath.Join(m.Binfmt, "status"))
		case !there.fixed:
			inTheWay = fault.New(fault.Invalid, "set up emulation: %s is registered without the flag F, and so does not serve containers", there.name).
				WithHint("as root: echo -1 >%s, then %s", filepath.Join(m.Binfmt, there.name), Command)
		}
	}
	return false, inTheWay
}

// refused is the error of something that the kernel did not do.
func (m Machine) refused(what string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission), readOnly(err):
		f := fault.New(fault.Denied, "set up emulation: %s: %w", what, err).WithHint("%s", asRoot(Command))
		if os.Geteuid() == 0 { // in a container
			f.Hint = "run it as root of the machine itself, not of a container: " + Command
		}
		return f
	case errors.Is(err, fs.ErrNotExist):
		return fault.New(fault.NotFound, "set up emulation: %s: its emulator is not there: %w", what, err).
			WithHint("%s && %s", asRoot("apt-get install --reinstall "+Package), asRoot(Command))
	default:
		return fault.New(fault.Unavailable, "set up emulation: %s: %w", what, err)
	}
}

// first is the first error, with the messages of the others.
func first(all []error) error {
	if len(all) < 2 {
		return errors.Join(all...)
	}
	f := *fault.As(all[0])
	f.Message = errors.Join(all...).Error()
	return &f
}
