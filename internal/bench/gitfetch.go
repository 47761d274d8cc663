package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/testbed"
)

const (
	gitCommits = 3000
	// gitFiles × gitFile is the work tree, and gitCommits × gitChange what history adds: a pack of about 50 MB.
	gitFiles  = 2500
	gitFile   = 14 << 10
	gitChange = 11 << 10
	gitGoal   = 1.2
)

// gitFetch measures how a repository gets here: all of the phase "fetch", which also checks that the push is allowed.
func gitFetch(ctx context.Context, l *lab, rounds int) ([]measure, error) {
	bare := l.path("git", "large.git")
	if err := makeRepository(bare); err != nil {
		return nil, err
	}
	size, err := folderSize(bare)
	if err != nil {
		return nil, err
	}
	l.say("  the repository is %.1f MB", float64(size)/(1<<20))
	url := l.git.URL + "/large.git"
	doc := buildparams.Document{
		Source: buildparams.Source{GitRepo: &buildparams.GitRepo{URL: url}},
		Target: buildparams.Target{Registry: buildparams.Registry{URL: l.registry.Host}, Images: []buildparams.Image{l.image(l.repository("git"), "v1")}},
	}
	file, err := l.write("git.json", doc)
	if err != nil {
		return nil, err
	}
	const clone, lsRemote = "git clone --depth 1", "git ls-remote"
	contenders := []contender{
		{clone, func(ctx context.Context, _ int) (map[string]float64, error) {
			into := l.path("clone")
			if err := os.RemoveAll(into); err != nil {
				return nil, err
			}
			took, err := l.time(ctx, "", "git", "clone", "--quiet", "--depth", "1", url, into)
			return map[string]float64{"cold": took}, err
		}},
		{lsRemote, func(ctx context.Context, _ int) (map[string]float64, error) {
			took, err := l.time(ctx, "", "git", "ls-remote", "--quiet", url, "HEAD")
			return map[string]float64{"again": took}, err
		}},
		{ours, func(ctx context.Context, _ int) (map[string]float64, error) {
			if err := os.RemoveAll(l.path("mirrors")); err != nil {
				return nil, err
			}
			got := map[string]float64{}
			for _, phase := range []string{"cold", "again"} {
				r, took, err := l.build(ctx, file, l.engineFlags()...)
				if err != nil {
					return got, err
				}
				got[phase], got["total/"+whole(phase == "cold")] = r.Times.Fetch, took
			}
			return got, nil
		}},
	}
	cold := measure{what: "git, 50 MB and 3,000 commits: cold", unit: "s", series: []series{{name: clone, peer: true}, {name: ours, goal: gitGoal}}}
	again := measure{what: "… nothing new there", unit: "s", series: []series{{name: lsRemote, peer: true}, {name: ours, goal: gitGoal}}}
	total := measure{what: "… all of image-builder build, for comparison", unit: "s", series: []series{{name: whole(true)}, {name: whole(false)}}}
	err = alternate(ctx, l, rounds, contenders, map[string]*measure{"cold": &cold, "again": &again, "total": &total})
	return []measure{cold, again, total}, err
}

// whole names the series of whole runs.
func whole(cold bool) string {
	if cold {
		return ours + ", cold"
	}
	return ours + ", nothing new"
}

// makeRepository makes a bare repository whose every commit replaces a piece of one file, packed as a server keeps it.
func makeRepository(bare string) error {
	if _, err := testbed.InitRepo(nil, bare, testbed.RepoOptions{}); err != nil {
		return err
	}
	cmd := exec.Command("git", "--git-dir="+bare, "fast-import", "--quiet")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	w := bufio.NewWriter(stdin)
	for n := range gitCommits {
		writeCommit(w, n)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := stdin.Close(); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("git fast-import: %w", err)
	}
	repack := exec.Command("git", "--git-dir="+bare, "-c", "pack.threads=0", "repack", "-a", "-d", "--quiet", "--window=0")
	return repack.Run()
}

func writeCommit(w io.Writer, n int) {
	const day = 86400
	fmt.Fprintf(w, "commit refs/heads/main\ncommitter Bench <bench@example.com> %d +0000\ndata 6\nchange\n", 1_700_000_000+n*day/10)
	file := func(path string, data []byte) {
		fmt.Fprintf(w, "M 100644 inline %s\ndata %d\n%s\n", path, len(data), data)
	}
	if n == 0 {
		file("Dockerfile", []byte("FROM scratch\nCOPY d0/f0 /\n"))
		for i := range gitFiles {
			file(treePath(i), content(uint64(i), gitFile))
		}
		return
	}
	file(treePath(n%gitFiles), content(uint64(10_000+n), gitChange))
}

func treePath(i int) string {
	return filepath.ToSlash(filepath.Join(fmt.Sprintf("d%d", i%50), fmt.Sprintf("f%d", i)))
}
