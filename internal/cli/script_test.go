package cli_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"imagebuilder/internal/cli"
	"imagebuilder/internal/command"
	"imagebuilder/internal/engine/managed"
	"imagebuilder/internal/lifecycle"
	"imagebuilder/internal/testbed"
	"imagebuilder/plugin"
)

// patience bounds every wait of these tests; it is met only when something hangs.
const patience = time.Minute

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"image-builder":   func() { os.Exit(cli.Main(context.Background(), command.Process(), os.Args[1:], "v1.2.3")) },
		"scripted-plugin": func() { plugin.Serve(scriptedPlugin{}) },
		"image-builder-plugin": func() { // as in cmd/image-builder-plugin
			if len(os.Args) > 1 && os.Args[1] == lifecycle.SupervisorCommand {
				os.Exit(managed.Supervise(context.Background(), os.Args[2:]))
			}
			plugin.Serve(lifecycle.New("v1.2.3"))
		},
	})
}

func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		WorkdirRoot:         t.TempDir(), // testscript's own stays when only some scripts are run
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               setUp,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":     exits,
			"interrupt": interrupt,
			"mode":      mode,
			"expand":    expand,
			"registry":  registry,
			"gitserver": gitServer,
			"repo":      repo,
			"sample":    sample,
			"files":     files,
			"engine":    engine,
			"node":      node,
			"served":    served,
			"untagged":  untagged,
		},
	})
}

// setUp names what scripts use and checks at the end that nothing is left behind.
func setUp(env *testscript.Env) error {
	path, err := exec.LookPath("scripted-plugin")
	if err != nil {
		return err
	}
	root, err := testbed.RepoRoot()
	if err != nil {
		return err
	}
	env.Setenv("SCRIPTED", path)
	env.Setenv("TEMPLATES", filepath.Join(root, "tosca"))
	env.Setenv("PATH", env.Getenv("PATH")+string(filepath.ListSeparator)+filepath.Join(root, "bin")) // buildkitd
	env.Setenv("IMAGE_BUILDER_CACHE_DIR", filepath.Join(env.WorkDir, "cache"))
	env.Setenv("IMAGE_BUILDER_STATE_DIR", filepath.Join(env.WorkDir, "state")) // an engine of our own is nobody else's
	env.Defer(func() {
		var left []string
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			// A plugin whose host was killed goes a moment after it, and so does an engine that is idle.
			if left = leftBehind(env); len(left) == 0 {
				return
			}
		}
		env.T().Fatal(fmt.Sprintf("left behind: %v", left))
	})
	return nil
}

// leftBehind lists the temporary files of a script, the processes that run in its environment, and the managed engines that
// were started from here: those of the script, and any whose state is in no script's folder.
func leftBehind(env *testscript.Env) (left []string) {
	files, _ := os.ReadDir(env.Getenv("TMPDIR")) // it need not be there
	for _, f := range files {
		left = append(left, f.Name())
	}
	for _, state := range testbed.ManagedEngines(filepath.Dir(env.Getenv("SCRIPTED"))) {
		if within(env.WorkDir, state) || !within(filepath.Dir(env.WorkDir), state) {
			left = append(left, "managed engine in "+state)
		}
	}
	processes, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, p := range processes {
		environment, _ := os.ReadFile(p) // it may be gone already
		if slices.Contains(strings.Split(string(environment), "\x00"), "WORK="+env.WorkDir) {
			left = append(left, filepath.Dir(p))
		}
	}
	return left
}

func within(folder, path string) bool {
	return strings.HasPrefix(path, folder+string(filepath.Separator))
}

// exits CODE COMMAND... runs a command, as exec does, and wants that exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	checkCode(ts, args[0], ts.Exec(args[1], args[2:]...))
}

func checkCode(ts *testscript.TestScript, want string, err error) {
	code := 0
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signaled():
		code = -int(exit.Sys().(syscall.WaitStatus).Signal())
	case errors.As(err, &exit):
		code = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(code) != want {
		ts.Fatalf("exit code %d, want %s", code, want)
	}
}

// interrupt SIGNALS WHEN CODE COMMAND... runs a command, sends it a signal (as INT) once WHEN stands on its standard error, and wants
// the exit code, or minus the signal that it died of. Of two (as INT:TERM) the second one is sent when the command has passed the first
// on to the plugin, which makes the file heard: sent at once, they might be taken in any order. Its outputs are the files out and err.
func interrupt(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 4 {
		ts.Fatalf("usage: interrupt SIGNALS WHEN CODE COMMAND...")
	}
	names := map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	path, err := exec.LookPath(args[3])
	ts.Check(err)
	cmd := exec.CommandContext(ctx, path, args[4:]...)
	cmd.Dir = ts.MkAbs(".")
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "WORK", "BUILDKIT_HOST", "IMAGE_BUILDER_CACHE_DIR", "IMAGE_BUILDER_STATE_DIR"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	out, err := os.Create(ts.MkAbs("out"))
	ts.Check(err)
	defer out.Close()
	stderr, err := os.Create(ts.MkAbs("err"))
	ts.Check(err)
	defer stderr.Close()
	cmd.Stdout, cmd.Stderr = out, stderr
	ts.Check(cmd.Start())
	await(ctx, func() bool {
		said, err := os.ReadFile(stderr.Name())
		return err == nil && strings.Contains(string(said), args[1])
	})
	first, second, two := strings.Cut(args[0], ":")
	ts.Check(cmd.Process.Signal(names[first]))
	if two {
		await(ctx, func() bool {
			_, err := os.Stat(ts.MkAbs("heard"))
			return err == nil
		})
		ts.Check(cmd.Process.Signal(names[second]))
	}
	checkCode(ts, args[2], cmd.Wait())
}

// await waits until something is so, or the context ends.
func await(ctx context.Context, so func() bool) {
	for !so() && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
}

// mode MODE FILE wants a file's permissions, in octal.
func mode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mode MODE FILE")
	}
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := strconv.FormatUint(uint64(info.Mode().Perm()), 8); got != args[0] {
		ts.Fatalf("%s has mode %s, want %s", args[1], got, args[0])
	}
}
