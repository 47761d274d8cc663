package onlooker

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

// childVariable makes this program one that opera has started: it shows as many lines as the variable says, and prints
// whether there was anybody to show them to.
const childVariable = "ONLOOKER_LINES"

// patienceOfTests bounds every wait here; it is met only when something hangs.
const patienceOfTests = time.Minute

func TestMain(m *testing.M) {
	var lines int
	if _, err := fmt.Sscan(os.Getenv(childVariable), &lines); err != nil {
		os.Exit(m.Run())
	}
	o := Find("app | ")
	fmt.Print(o != nil)
	for i := range lines {
		fmt.Fprintf(o, "line %d\n\n", i)
	}
	fmt.Fprint(o, "the last")
	o.Close()
	o.Close()
	fmt.Fprintln(o, "late")
}

// underOpera runs a child below a program of a name, with the standard error that the program has, and gives what the child prints.
func underOpera(t *testing.T, name string, lines int, stderr *os.File) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patienceOfTests)
	defer cancel()
	bin := filepath.Join(t.TempDir(), "bin")
	require.NoError(t, os.Mkdir(bin, 0o755))
	// As opera does, the inner programs get other outputs than its own.
	script := "import subprocess, sys\n" +
		"done = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)\n" +
		"sys.stdout.buffer.write(done.stdout)\n"
	for _, program := range []string{name, "ansible-playbook"} {
		require.NoError(t, os.WriteFile(filepath.Join(bin, program), []byte(script), 0o644))
	}
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(ctx, "python3", filepath.Join(bin, name), "python3", filepath.Join(bin, "ansible-playbook"), "sh", "-c", `"$0"; true`, self)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", childVariable, lines))
	cmd.Stderr = stderr
	out, err := cmd.Output()
	require.NoError(t, err, "is python3 installed? apt-get install python3")
	return string(out)
}

const shown = "app | line 0\napp | line 1\napp | the last\n"

func TestPipe(t *testing.T) {
	t.Parallel()
	out, in, err := os.Pipe()
	require.NoError(t, err)
	require.Equal(t, "true", underOpera(t, "opera", 2, in))
	require.NoError(t, in.Close())
	got, err := io.ReadAll(out)
	require.NoError(t, err)
	require.Equal(t, shown, string(got))
}

func TestTerminal(t *testing.T) {
	t.Parallel()
	tty, screen := testbed.NewTerminal(t, 80, 24)
	require.Equal(t, "true", underOpera(t, "opera", 2, tty))
	require.NoError(t, tty.Close())
	require.Equal(t, shown, strings.ReplaceAll(screen(), "\r", ""))
}

func TestFiles(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		flags int
		want  string
	}{
		"appended to": {os.O_APPEND, "before\n" + shown},
		"overwritten": {0, "before\n"}, // opera's next line would go over ours
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "stderr")
			file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|c.flags, 0o600)
			require.NoError(t, err)
			_, err = file.WriteString("before\n")
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint(c.flags != 0), underOpera(t, "opera", 2, file))
			require.NoError(t, file.Close())
			got, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, c.want, string(got))
		})
	}
}

func TestNobody(t *testing.T) {
	t.Parallel()
	out, in, err := os.Pipe()
	require.NoError(t, err)
	require.Equal(t, "false", underOpera(t, "chef", 2, in), "no opera")
	require.NoError(t, in.Close())
	got, err := io.ReadAll(out)
	require.NoError(t, err)
	require.Empty(t, got)

	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	require.NoError(t, err)
	defer null.Close()
	require.Equal(t, "false", underOpera(t, "opera", 2, null), "no terminal")

	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	require.NoError(t, err)
	defer listener.Close()
	connection, err := net.Dial("unix", listener.Addr().String())
	require.NoError(t, err)
	defer connection.Close()
	socket, err := connection.(*net.UnixConn).File()
	require.NoError(t, err)
	defer socket.Close()
	require.Equal(t, "false", underOpera(t, "opera", 2, socket), "a socket cannot be opened again")

	out, in, err = os.Pipe()
	require.NoError(t, err)
	require.NoError(t, out.Close())
	require.Equal(t, "true", underOpera(t, "opera", 2, in), "who does not read any more is told all the same, and nothing happens")
	require.NoError(t, in.Close())
}

// TestReaderSleeps: someone who does not read holds up nobody.
func TestReaderSleeps(t *testing.T) {
	t.Parallel()
	out, in, err := os.Pipe()
	require.NoError(t, err)
	require.Equal(t, "true", underOpera(t, "opera", 100_000, in)) // more than a pipe holds
	require.NoError(t, in.Close())
	got, err := io.ReadAll(out)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(string(got), "app | line 0\napp | line 1\n"))
}

func TestIsOpera(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]bool{
		"/venv/bin/python3.11 /venv/bin/opera deploy":  true,
		"python -X dev -u /venv/bin/opera deploy":      true,
		"python3 -m opera.cli deploy":                  true,
		"python3 -m opera deploy":                      true,
		"/usr/local/bin/opera deploy":                  true,
		"python3 -m operatic":                          false,
		"python3 /venv/bin/ansible-playbook opera":     false,
		"python3 -m http.server":                       false,
		"python3 -m":                                   false,
		"python3":                                      false,
		"vim /venv/bin/opera":                          false,
		"/snap/bin/opera.sh":                           false,
		"python3 /home/opera/bin/tool /venv/bin/opera": false,
		"": false,
		"python3 -W ignore /venv/bin/opera-something run": false,
	} {
		require.Equal(t, want, isOpera(strings.Fields(args)), args)
	}
}
