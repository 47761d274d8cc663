package emulation_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/platforms"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/emulation"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/testbed"
)

// childVariable makes the test's executable set emulation up for the machine that it holds, and say what became of it.
const childVariable = "EMULATION_TEST"

func TestMain(m *testing.M) {
	if text := os.Getenv(childVariable); text != "" {
		child(text)
		return
	}
	os.Exit(m.Run())
}

// order is what a child does: it sets emulation up once for each step, after it has written what stands there.
type order struct {
	Machine emulation.Machine
	Steps   [][]write
	Run     []string // at the end: a program for another processor
}

// write writes a text to a file of binfmt_misc.
type write struct{ File, Text string }

// said is what a child tells of each set-up.
type said struct {
	Registered []string
	Kind       fault.Kind
	Message    string
	Hint       string
	Emulated   string
	Missing    string
	Output     string // of Run, and its error
}

func child(text string) {
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		panic(err)
	}
	var all []said
	for _, step := range o.Steps {
		for _, w := range step {
			if err := os.WriteFile(filepath.Join(o.Machine.Binfmt, w.File), []byte(w.Text), 0); err != nil {
				panic(err)
			}
		}
		registered, err := o.Machine.Setup()
		s := said{
			Registered: registered, Emulated: emulation.Names(emulation.Emulated(os.DirFS(o.Machine.Binfmt))),
			Missing: emulation.Names(o.Machine.Missing()),
		}
		if err != nil {
			f := fault.As(err)
			s.Kind, s.Message, s.Hint = f.Kind, f.Message, f.Hint
		}
		all = append(all, s)
	}
	if len(o.Run) > 0 {
		out, err := exec.Command(o.Run[0], o.Run[1:]...).CombinedOutput()
		all = append(all, said{Output: string(out) + fmt.Sprint(err)})
	}
	if err := json.NewEncoder(os.Stdout).Encode(all); err != nil {
		panic(err)
	}
}

// apart runs a child in a user namespace, which has a binfmt_misc of its own since Linux 6.7: nothing of it is
// seen on the machine. uid is what the child takes itself for; 0 may mount.
func apart(t *testing.T, uid int, o order) []said {
	t.Helper()
	data, err := json.Marshal(o)
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+string(data))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	var all []said
	require.NoError(t, json.Unmarshal(out, &all))
	return all
}

// foreign is a usual platform that no processor but its own runs, and its interpreter.
func foreign() (platform, interpreter string) {
	if runtime.GOARCH == "s390x" {
		return "linux/ppc64le", "qemu-ppc64le"
	}
	return "linux/s390x", "qemu-s390x"
}

func TestSetup(t *testing.T) {
	t.Parallel()
	platform, interpreter := foreign()
	bases, err := testbed.Bases(context.Background())
	require.NoError(t, err)
	program := filepath.Join(t.TempDir(), "echo") // busybox goes by its name
	require.NoError(t, os.Symlink(filepath.Join(bases, map[string]string{"linux/s390x": "s390x", "linux/ppc64le": "ppc64el"}[platform]), program))

	m := emulation.ThisMachine()
	m.Binfmt = t.TempDir()
	got := apart(t, 0, order{Machine: m, Run: []string{program, "from", "afar"}, Steps: [][]write{
		nil, nil, {{interpreter, "0"}}, {{interpreter, "1"}},
	}})
	require.Empty(t, got[0].Message, "`scripts/setup.sh packages qemu-user-static` gets the emulators; Linux 6.7 or newer is needed here")
	require.Contains(t, got[0].Registered, interpreter)
	require.Empty(t, got[0].Missing)
	require.Contains(t, got[0].Emulated, platform)
	for _, native := range emulation.Native() {
		require.NotContains(t, strings.Split(got[0].Emulated, ", "), platforms.Format(native), "a machine's own programs are not emulated")
	}

	require.Empty(t, got[1].Registered, "the second time there is nothing to do")
	require.Empty(t, got[1].Message)

	require.Equal(t, fault.Invalid, got[2].Kind, "what somebody switched off stays off")
	require.Contains(t, got[2].Message, interpreter+" is switched off")
	require.Contains(t, got[2].Hint, "echo 1 >"+filepath.Join(m.Binfmt, interpreter))
	require.Equal(t, platform, got[2].Missing)
	require.Empty(t, got[2].Registered)

	require.Empty(t, got[3].Message)
	require.Equal(t, "from afar\n<nil>", got[4].Output)
}

func TestSetupAddsTheFlag(t *testing.T) {
	t.Parallel()
	platform, interpreter := foreign()
	conf, err := os.ReadFile(filepath.Join("/usr/lib/binfmt.d", interpreter+".conf"))
	require.NoError(t, err, "`scripts/setup.sh packages qemu-user-static` gets it")
	plain := strings.Replace(strings.TrimSpace(string(conf)), ":OPF", ":OP", 1)
	require.NotRegexp(t, "F$", plain)
	folder, masked := t.TempDir(), t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(folder, "a.conf"), []byte("# a comment\n\n"+plain+"\n"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "b.conf"), conf, 0o644))
	require.NoError(t, os.Symlink("/dev/null", filepath.Join(masked, "b.conf")))

	got := apart(t, 0, order{Machine: emulation.Machine{Binfmt: t.TempDir(), Confs: []string{masked, folder}}, Steps: [][]write{
		nil, {{interpreter, "-1"}, {"register", plain}}, {{interpreter, "-1"}},
	}})
	require.Equal(t, []string{interpreter}, got[0].Registered)
	require.Equal(t, platform, got[0].Emulated)
	require.Equal(t, fault.Invalid, got[1].Kind, "what is registered without it stays, and is named")
	require.Contains(t, got[1].Message, interpreter+" is registered without the flag F")
	require.Empty(t, got[1].Emulated)
	require.Equal(t, []string{interpreter}, got[2].Registered)
}

func TestSetupRefused(t *testing.T) {
	t.Parallel()
	m := emulation.ThisMachine()
	m.Binfmt = t.TempDir()
	got := apart(t, 1000, order{Machine: m, Steps: [][]write{nil}})
	require.Len(t, got, 1)
	for _, s := range got {
		require.Equal(t, fault.Denied, s.Kind)
		require.Contains(t, s.Message, "mount binfmt_misc at "+m.Binfmt)
		require.Equal(t, "sudo "+emulation.Command, s.Hint)
	}
}

func TestSetupWithoutItsEmulator(t *testing.T) {
	t.Parallel()
	_, interpreter := foreign()
	conf, err := os.ReadFile(filepath.Join("/usr/lib/binfmt.d", interpreter+".conf"))
	require.NoError(t, err, "`scripts/setup.sh packages qemu-user-static` gets it")
	folder := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(folder, "a.conf"), bytes.ReplaceAll(conf, []byte("/usr/"), []byte("/nowhere/")), 0o644))
	got := apart(t, 0, order{Machine: emulation.Machine{Binfmt: t.TempDir(), Confs: []string{folder}}, Steps: [][]write{nil}})
	require.Equal(t, fault.NotFound, got[0].Kind)
	require.Contains(t, got[0].Message, "register "+interpreter+": its emulator is not there")
	require.Contains(t, got[0].Hint, "apt-get install --reinstall qemu-user-static")
}

func TestSetupWithoutEmulators(t *testing.T) {
	t.Parallel()
	m := emulation.Machine{Binfmt: t.TempDir(), Confs: []string{t.TempDir(), filepath.Join(t.TempDir(), "none")}}
	registered, err := m.Setup()
	require.Empty(t, registered)
	require.Equal(t, fault.NotFound, fault.KindOf(err))
	require.Contains(t, fault.As(err).Hint, "apt-get install qemu-user-static")
	require.Equal(t, fault.As(err).Hint, m.Remedy())
}

// TestThisMachine is set up by `make test`, and to set it up again changes nothing.
func TestThisMachine(t *testing.T) {
	t.Parallel()
	m := emulation.ThisMachine()
	require.Empty(t, emulation.Names(m.Missing()), "`scripts/setup.sh emulation` sets it up")
	before, err := os.ReadDir(m.Binfmt)
	require.NoError(t, err)
	registered, err := m.Setup()
	require.NoError(t, err)
	require.Empty(t, registered)
	after, err := os.ReadDir(m.Binfmt)
	require.NoError(t, err)
	names := func(entries []os.DirEntry) (all []string) {
		for _, e := range entries {
			all = append(all, e.Name())
		}
		return slices.Sorted(slices.Values(all))
	}
	require.Equal(t, names(before), names(after))
}
