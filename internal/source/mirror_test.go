package source_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/testbed"
)

// mirrorFiles are the regular files of the cache whose names match.
func mirrorFiles(t *testing.T, cache, pattern string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(cache, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if ok, _ := filepath.Match(pattern, d.Name()); ok {
				found = append(found, name)
			}
		}
		return err
	})
	require.NoError(t, err)
	require.NotEmpty(t, found, pattern)
	return found
}

func TestDamagedMirrorIsFetchedAnew(t *testing.T) {
	t.Parallel()
	damage := map[string]func(t *testing.T, cache string){
		"pack gone": func(t *testing.T, cache string) {
			require.NoError(t, os.Remove(mirrorFiles(t, cache, "*.pack")[0]))
		},
		"pack cut": func(t *testing.T, cache string) {
			name := mirrorFiles(t, cache, "*.pack")[0]
			require.NoError(t, os.Chmod(name, 0o600))
			require.NoError(t, os.Truncate(name, 40))
		},
		"index cut": func(t *testing.T, cache string) {
			name := mirrorFiles(t, cache, "*.idx")[0]
			require.NoError(t, os.Chmod(name, 0o600))
			require.NoError(t, os.Truncate(name, 100))
		},
		"index empty": func(t *testing.T, cache string) {
			name := mirrorFiles(t, cache, "*.idx")[0]
			require.NoError(t, os.Chmod(name, 0o600))
			require.NoError(t, os.Truncate(name, 0))
		},
		"HEAD empty": func(t *testing.T, cache string) {
			require.NoError(t, os.WriteFile(mirrorFiles(t, cache, "HEAD")[0], nil, 0o600))
		},
		"pack turned round": func(t *testing.T, cache string) {
			name := mirrorFiles(t, cache, "*.pack")[0]
			data, err := os.ReadFile(name)
			require.NoError(t, err)
			for i := 12; i < len(data)-20; i++ {
				data[i] ^= 0x55
			}
			require.NoError(t, os.Chmod(name, 0o600))
			require.NoError(t, os.WriteFile(name, data, 0o600))
		},
	}
	for name, hurt := range damage {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, testbed.GitOptions{})
			b.init("app.git", app())
			whole := walkTree(t, b.fetch(gitRepo(b.url("app.git"), ""), nil).Context)
			hurt(t, b.fetcher.CacheDir)
			require.Equal(t, whole, walkTree(t, b.fetch(gitRepo(b.url("app.git"), ""), nil).Context))
			b.server.Reset()
			require.Equal(t, whole, walkTree(t, b.fetch(gitRepo(b.url("app.git"), ""), nil).Context))
			require.Equal(t, testbed.GitRequests{InfoRefs: 1}, b.server.Requests())
		})
	}
}

// TestEveryBitCounts flips single bits of packs and their indexes: whichever it is, the checkout is right.
func TestEveryBitCounts(t *testing.T) {
	t.Parallel()
	for _, pattern := range []string{"*.pack", "*.idx"} {
		t.Run(pattern, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, testbed.GitOptions{})
			b.init("app.git", app())
			whole := walkTree(t, b.fetch(gitRepo(b.url("app.git"), ""), nil).Context)
			name := mirrorFiles(t, b.fetcher.CacheDir, pattern)[0]
			good, err := os.ReadFile(name)
			require.NoError(t, err)
			for at := 0; at < len(good); at += len(good)/40 + 1 {
				bad := bytes.Clone(good)
				bad[at] ^= 1 << (at % 8)
				require.NoError(t, os.RemoveAll(name))
				require.NoError(t, os.WriteFile(name, bad, 0o600))
				require.Equal(t, whole, walkTree(t, b.fetch(gitRepo(b.url("app.git"), ""), nil).Context), "bit of byte %d", at)
			}
		})
	}
}

func TestParallelFetchesShareAMirror(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.GitOptions{})
	first := b.init("app.git", app())
	second := b.commit("app.git", testbed.GitCommit{Branch: "main", Files: fstest.MapFS{"main.txt": file("two\n")}})
	var group errgroup.Group
	for i := range 12 {
		version, main := "main", "two\n"
		if i%2 == 1 {
			version, main = first, "one\n"
		}
		group.Go(func() error {
			tree, err := b.try(gitRepo(b.url("app.git"), version), nil)
			if err != nil {
				return err
			}
			if got := read(t, tree.Context, "main.txt"); got != main {
				return fmt.Errorf("%s: main.txt is %q", version, got)
			}
			return tree.Close()
		})
	}
	require.NoError(t, group.Wait())
	require.NotEqual(t, first, second)
	require.Empty(t, filesIn(t, b.dir), "Close removes what Fetch made")
	info, err := os.Stat(filepath.Dir(mirrorFiles(t, b.fetcher.CacheDir, "*.lock")[0]))
	require.NoError(t, err)
	require.Equal(t, fs.ModeDir|0o700, info.Mode())
}

func filesIn(t *testing.T, dir string) []os.DirEntry {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	return entries
}

func TestMirrorWithManyPacksStartsAnew(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.GitOptions{})
	b.init("app.git", app())
	b.fetch(gitRepo(b.url("app.git"), ""), nil)
	pack := mirrorFiles(t, b.fetcher.CacheDir, "*.pack")[0]
	for i := range 60 {
		name := filepath.Join(filepath.Dir(pack), fmt.Sprintf("pack-%040x.pack", i))
		require.NoError(t, os.WriteFile(name, nil, 0o600))
	}
	b.commit("app.git", testbed.GitCommit{Files: fstest.MapFS{"main.txt": file("two\n")}})
	tree := b.fetch(gitRepo(b.url("app.git"), ""), nil)
	require.Equal(t, "two\n", read(t, tree.Context, "main.txt"))
	require.Len(t, mirrorFiles(t, b.fetcher.CacheDir, "*.pack"), 1)
}

func TestTimesAndKeys(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.GitOptions{})
	first := b.init("app.git", app())
	// The same size and, as two pushes in a second have it, the same time: only the key tells them apart.
	second := b.commit("app.git", testbed.GitCommit{Files: fstest.MapFS{"main.txt": file("two\n")}})
	keys := map[string]bool{}
	for _, src := range []string{first, second} {
		tree := b.fetch(gitRepo(b.url("app.git"), src), nil)
		keys[tree.ContextKey] = true
		err := tree.Context.Walk(t.Context(), "", func(name string, d fs.DirEntry, err error) error {
			require.NoError(t, err)
			info, err := d.Info()
			require.NoError(t, err)
			require.Equal(t, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), info.ModTime().UTC(), name)
			return nil
		})
		require.NoError(t, err)
	}
	src := gitRepo(b.url("app.git"), second)
	src.GitRepo.Workdir = "src"
	keys[b.fetch(src, nil).ContextKey] = true
	require.Len(t, keys, 3)
	require.True(t, keys[b.fetch(gitRepo(b.url("app.git"), "main"), nil).ContextKey], "the same commit has the same key")
}

func TestFetchIsCancelled(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	for _, url := range []string{"http://" + listener.Addr().String() + "/app.git", "ssh://git@" + listener.Addr().String() + "/app.git"} {
		t.Run(url[:4], func(t *testing.T) {
			t.Parallel()
			b := newBed(t, testbed.GitOptions{})
			ctx, cancel := context.WithCancel(t.Context())
			began := make(chan struct{})
			go func() {
				<-began
				cancel()
			}()
			once := false
			_, err := b.fetcher.Fetch(ctx, gitRepo(url, ""), nil, b.dir, func(event.Event) {
				if !once {
					once = true
					close(began)
				}
			})
			require.Equal(t, fault.Cancelled, fault.KindOf(err))
			require.Empty(t, filesIn(t, b.dir))
		})
	}
}

// TestGitIsKilledWithItsChildren runs a git that starts children and waits for ever.
func TestGitIsKilledWithItsChildren(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.GitOptions{})
	old := b.init("app.git", app())
	b.commit("app.git", testbed.GitCommit{Files: fstest.MapFS{"main.txt": file("two\n")}})
	dir := t.TempDir()
	pids := filepath.Join(dir, "pids")
	slow := filepath.Join(dir, "git")
	require.NoError(t, os.WriteFile(slow, []byte("#!/bin/sh\nsleep 600 &\necho $$ $! >"+pids+".new\nmv "+pids+".new "+pids+"\nwait\n"), 0o755))
	b.fetcher.LookPath = func(string) (string, error) { return slow, nil }
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for ctx.Err() == nil {
			if _, err := os.Stat(pids); err == nil {
				cancel()
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	_, err := b.fetcher.Fetch(ctx, gitRepo(b.url("app.git"), old), nil, b.dir, b.events.sink)
	require.Equal(t, fault.Cancelled, fault.KindOf(err))
	text, err := os.ReadFile(pids)
	require.NoError(t, err)
	for _, pid := range strings.Fields(string(text)) {
		require.Eventually(t, func() bool {
			stat, err := os.ReadFile("/proc/" + pid + "/stat")
			return err != nil || strings.Contains(string(stat), ") Z ")
		}, 10*time.Second, 10*time.Millisecond, "process %s is gone", pid)
	}
}

func TestCheckoutDoesNotDependOnUmask(t *testing.T) {
	t.Parallel()
	// umask belongs to the process, and other tests run in this one: a process of its own has another.
	if os.Getenv("SOURCE_TEST_UMASK") == "" {
		cmd := exec.Command("sh", "-c", `umask 077; exec "$0" -test.run '^TestCheckoutDoesNotDependOnUmask$' -test.count 1`, os.Args[0])
		cmd.Env = append(os.Environ(), "SOURCE_TEST_UMASK=1")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
		return
	}
	b := newBed(t, testbed.GitOptions{})
	b.init("app.git", app())
	for _, look := range []func(string) (string, error){nil, withoutGit} {
		b.fetcher.LookPath = look
		tree := walkTree(t, b.fetch(gitRepo(b.url("app.git"), ""), nil).Context)
		require.Equal(t, "644 one\n", tree["main.txt"])
		require.Equal(t, "755 #!/bin/sh\n", tree["run.sh"])
		require.Equal(t, "dir 755", tree["src/deep"])
	}
}
