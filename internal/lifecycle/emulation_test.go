package lifecycle_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/platforms"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/emulation"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/lifecycle"
	"imagebuilder/internal/result"
	"imagebuilder/internal/testbed"
	"imagebuilder/plugin"
)

// withoutEmulation is this machine as it was before emulation was set up.
func withoutEmulation(t *testing.T) emulation.Machine {
	t.Helper()
	m := emulation.ThisMachine()
	m.Binfmt = t.TempDir()
	return m
}

// perform runs create, or plan, on a machine; @REG in the document stands for the bed's registry.
func (b *bed) perform(t *testing.T, m emulation.Machine, s result.Settings, plan bool, document string) (*result.Result, error) {
	t.Helper()
	s.CacheDir = b.cacheDir
	settings, err := json.Marshal(s)
	require.NoError(t, err)
	request := plugin.Request{
		NodeType: lifecycle.ImageNode, Operation: lifecycle.Create, WorkDir: t.TempDir(), Settings: settings,
		Inputs: json.RawMessage(strings.ReplaceAll(document, "@REG", b.registry.Host)),
	}
	p := lifecycle.New("test").On(m)
	if plan {
		_, err := p.Plan(t.Context(), request)
		return nil, err
	}
	data, err := p.Execute(t.Context(), request, func(plugin.Event) {})
	out := &result.Result{}
	if data != nil {
		require.NoError(t, json.Unmarshal(data, out))
	}
	return out, err
}

func (b *bed) pushAllBases(t *testing.T) {
	t.Helper()
	_, err := testbed.PushBases(t.Context(), b.registry.Host, testbed.BaseOptions{Images: []testbed.BaseImage{{Name: "base/busybox:1"}}})
	require.NoError(t, err)
}

// everywhere is a document with one image for all seven platforms, and one more.
func everywhere(url string) string {
	all, _ := json.Marshal(testbed.BasePlatforms())
	return fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"@REG"},"images":[
		{"image":"native","tag":"1","base":"@REG/base/busybox:1","platforms":["linux/amd64","linux/386"]},
		{"image":"all","tag":"1","base":"@REG/base/busybox:1","platforms":%s}]}}`, url, all)
}

// TestRunOnEveryPlatform carries out RUNs for seven platforms, five of them by emulation.
func TestRunOnEveryPlatform(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	b.pushAllBases(t)
	url, _ := b.repository(t, "app.git", map[string]string{
		// The shell and wc run emulated; what they say depends on nothing but the platform that is built for.
		"Dockerfile": "FROM busybox\nARG TARGETPLATFORM\nRUN echo $TARGETPLATFORM | sed s/linux/ran/ >/ran && test $(wc -l </ran) = 1\n",
	})
	out, err := b.perform(t, emulation.ThisMachine(), result.Settings{Engine: "buildkit", BuildKitHost: b.address}, false, everywhere(url))
	require.NoError(t, err, "`scripts/setup.sh emulation` sets it up")
	require.Len(t, out.Images[1].Platforms, 7)
	for _, p := range out.Images[1].Platforms {
		platform := platforms.MustParse(p.Platform)
		files := contents(t, b.pull(t, "@REG/all@"+p.Digest, platform.OS, platform.Architecture))
		require.Equal(t, strings.Replace(p.Platform, "linux", "ran", 1)+"\n", files["ran"])
	}
}

// TestRunWithoutEmulation is refused before anything is built, with platform, line and the command that mends it.
func TestRunWithoutEmulation(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	b.pushAllBases(t)
	m := withoutEmulation(t)
	unix := result.Settings{Engine: "buildkit", BuildKitHost: b.address}
	url, _ := b.repository(t, "run.git", map[string]string{"Dockerfile": "FROM busybox AS base\nFROM base\nRUN exit 7\n"})

	for _, tt := range []struct {
		settings result.Settings
		plan     bool
	}{{unix, false}, {unix, true}, {result.Settings{Engine: "managed"}, true}} {
		_, err := b.perform(t, m, tt.settings, tt.plan, everywhere(url))
		require.Equal(t, fault.Invalid, fault.KindOf(err), "%v", err)
		problems := fault.As(err).Problems
		require.Len(t, problems, 5, "386 is native: %v", err)
		byPointer := map[string]fault.Problem{}
		for _, p := range problems {
			byPointer[p.Pointer] = p
		}
		for i, name := range testbed.BasePlatforms()[2:] {
			p, ok := byPointer[fmt.Sprintf("/target/images/1/platforms/%d", i+2)]
			require.True(t, ok, "%v", err)
			require.Contains(t, p.Message, "Dockerfile:3: stage stage-1 runs programs of "+name)
			require.Contains(t, p.Hint, emulation.Command)
			require.Contains(t, p.Hint, "--node "+name+"=ADDRESS")
		}
	}
	require.Empty(t, b.tags(t, "all"))
	require.Empty(t, b.tags(t, "native"))

	// What its builder stage runs is the build platform's; the target's own programs only lie there.
	url, _ = b.repository(t, "copy.git", map[string]string{
		"Dockerfile": strings.ReplaceAll("FROM --platform=$BUILDPLATFORM @REG/base/busybox:1 AS make\nARG TARGETARCH\nRUN echo $TARGETARCH >/made\n"+
			"FROM busybox AS unused\nRUN exit 8\nFROM busybox\nCOPY --from=make /made /\n", "@REG", b.registry.Host),
	})
	document := strings.ReplaceAll(everywhere(url), `"base":"@REG/base/busybox:1"`, `"bases":{"busybox":"@REG/base/busybox:1"}`)
	out, err := b.perform(t, m, unix, false, document)
	require.NoError(t, err)
	require.Len(t, out.Images[1].Platforms, 7)
	_, err = b.perform(t, m, result.Settings{Engine: "managed"}, true, document)
	require.NoError(t, err)
}

// TestRunOnAnotherMachine believes what the daemon there says: this machine's kernel has no say.
func TestRunOnAnotherMachine(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	b.pushAllBases(t)
	remote := result.Settings{Engine: "buildkit", BuildKitHost: "tcp://" + relay(t, strings.TrimPrefix(b.address, "unix://"))}
	m := withoutEmulation(t)
	url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": "FROM busybox\nRUN true\n"})
	_, err := b.perform(t, m, remote, false, everywhere(url))
	require.NoError(t, err)

	url, _ = b.repository(t, "odd.git", map[string]string{"Dockerfile": "FROM scratch\nCOPY . /\nRUN [\"/x\"]\n"})
	document := fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"@REG"},
		"images":[{"image":"odd","tag":"1","platforms":["linux/amd64","linux/ppc64"]}]}}`, url)
	_, err = b.perform(t, m, remote, false, document)
	require.Equal(t, fault.Invalid, fault.KindOf(err), "%v", err)
	require.Len(t, fault.As(err).Problems, 1)
	p := fault.As(err).Problems[0]
	require.Equal(t, "/target/images/0/platforms/1", p.Pointer)
	require.Contains(t, p.Message, "linux/ppc64, which the engine's machine does not emulate")
	require.Contains(t, p.Hint, "on that machine: sudo "+emulation.Command)

	_, err = b.perform(t, m, remote, true, document)
	require.Equal(t, fault.Invalid, fault.KindOf(err), "a plan asks an engine that is there")
	remote.BuildKitHost = "tcp://127.0.0.1:1"
	_, err = b.perform(t, m, remote, true, document)
	require.NoError(t, err, "and does without one that is not")
}

// relay passes TCP connections on to a socket, and gives its address.
func relay(t *testing.T, socket string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("unix", socket)
			if err != nil {
				_ = in.Close()
				continue
			}
			pass := func(to, from net.Conn) {
				_, _ = io.Copy(to, from)
				_, _ = to.Close(), from.Close()
			}
			all.Go(func() { pass(in, out) })
			all.Go(func() { pass(out, in) })
		}
	})
	t.Cleanup(func() {
		require.NoError(t, listener.Close())
		all.Wait()
	})
	return listener.Addr().String()
}

func doctor(t *testing.T, m emulation.Machine, inputs string) (*result.Doctor, error) {
	t.Helper()
	cfg, err := testbed.EngineConfig(t.Context())
	require.NoError(t, err)
	settings, err := json.Marshal(result.Settings{StateDir: cfg.StateDir, BuildKitHost: "unix://" + t.TempDir() + "/none"})
	require.NoError(t, err)
	data, err := lifecycle.New("test").On(m).Execute(t.Context(), plugin.Request{
		NodeType: lifecycle.EngineNode, Operation: lifecycle.Doctor, Inputs: json.RawMessage(inputs), Settings: settings,
	}, func(plugin.Event) {})
	if err != nil {
		require.Nil(t, data)
		return nil, err
	}
	out := &result.Doctor{}
	require.NoError(t, json.Unmarshal(data, out))
	return out, nil
}

func emulationCheck(t *testing.T, d *result.Doctor) result.Check {
	t.Helper()
	for _, c := range d.Checks {
		if c.Name == "emulation" {
			return c
		}
	}
	t.Fatal("no check of emulation")
	return result.Check{}
}

func TestDoctorFix(t *testing.T) {
	t.Parallel()
	report, err := doctor(t, emulation.ThisMachine(), `{"fix":true}`)
	require.NoError(t, err)
	require.True(t, emulationCheck(t, report).OK)

	report, err = doctor(t, withoutEmulation(t), `{"fix":false}`)
	require.NoError(t, err)
	check := emulationCheck(t, report)
	require.False(t, check.OK)
	require.Contains(t, check.Detail, "linux/s390x")
	require.NotContains(t, check.Detail, "linux/386")
	require.Contains(t, check.Fix, emulation.Command)

	// Neither root nor another user can mount on a folder that is not there.
	m := withoutEmulation(t)
	require.NoError(t, os.Remove(m.Binfmt))
	_, err = doctor(t, m, `{"fix":true}`)
	require.Contains(t, []fault.Kind{fault.NotFound, fault.Denied}, fault.KindOf(err), "%v", err)
	require.Contains(t, fault.As(err).Hint, emulation.Command)
}

func TestDoctorInputs(t *testing.T) {
	t.Parallel()
	for inputs, want := range map[string]string{
		`{"fix":1}`:             "/fix: it is neither true nor false",
		`{"fix":null}`:          "/fix: it is neither true nor false",
		`{"fix":true,"x/y":{}}`: "/x~1y: there is no such input",
		`[]`:                    "they are no JSON object",
		`null`:                  "they are no JSON object",
	} {
		_, err := doctor(t, emulation.ThisMachine(), inputs)
		require.ErrorContains(t, err, want, inputs)
		var f *fault.Error
		require.True(t, errors.As(err, &f))
		require.Equal(t, fault.Invalid, f.Kind)
	}
}
