// Command demo is what make run runs: the main job, end to end and for real. It starts a registry and
// a git server of its own, has image-builder build the sample repository for two variants and
// seven platforms, asks the registry for what is there now, and stops everything it started.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/engine/managed"
	"imagebuilder/internal/testbed"
	"imagebuilder/schemas"
)

// The demo's executables and the folder for what it keeps between runs: the engine's cache.
const (
	builder  = "bin/image-builder"
	plugin   = "bin/image-builder-plugin"
	stateDir = ".work/run"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	start := time.Now()
	dir, err := os.MkdirTemp("", "image-builder-demo-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	registry, err := testbed.StartRegistry(testbed.RegistryOptions{})
	if err != nil {
		return err
	}
	defer registry.Close()
	bases := []testbed.BaseImage{
		{Name: "base/busybox:1.36"},
		{Name: "base/busybox-tz:1.36", Files: map[string]string{"/etc/timezone": "Europe/Ljubljana\n"}},
	}
	if _, err := testbed.PushBases(ctx, registry.Host, testbed.BaseOptions{Images: bases}); err != nil {
		return err
	}
	git, err := serveSample(dir)
	if err != nil {
		return err
	}
	defer git.Close()

	input, err := writeInput(dir, git.URL+"/sample.git", registry.Host)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopEngine()) }()
	if err := build(ctx, input); err != nil {
		return err
	}
	if err := show(ctx, registry.Host); err != nil {
		return err
	}
	fmt.Printf("\nbuilt, pushed and read back in %.1f s\n", time.Since(start).Seconds())
	return nil
}

// serveSample makes a git repository of the sample and serves it over HTTP.
func serveSample(dir string) (*testbed.GitServer, error) {
	sample, err := fs.Sub(schemas.Examples(), "sample-repo")
	if err != nil {
		return nil, err
	}
	root := filepath.Join(dir, "git")
	if _, err := testbed.InitRepo(sample, filepath.Join(root, "sample.git"), testbed.RepoOptions{}); err != nil {
		return nil, err
	}
	return testbed.StartGit(root, testbed.GitOptions{})
}

// writeInput writes the build_params: one repository, two variants with a base each, seven platforms.
func writeInput(dir, repository, registry string) (string, error) {
	doc := buildparams.Document{
		Source: buildparams.Source{GitRepo: &buildparams.GitRepo{URL: repository}},
		Target: buildparams.Target{
			Registry: buildparams.Registry{URL: registry},
			Images: []buildparams.Image{
				{Image: "demo/hello", Tag: "latest", Base: registry + "/base/busybox:1.36", Platforms: testbed.BasePlatforms()},
				{Image: "demo/hello", Tag: "tz", Base: registry + "/base/busybox-tz:1.36", Platforms: testbed.BasePlatforms()},
			},
		},
	}
	data, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "hello.json")
	return path, os.WriteFile(path, data, 0o600)
}

// build runs the command line as a user would, with an engine whose state stays in the working tree.
func build(ctx context.Context, input string) error {
	cmd := exec.CommandContext(ctx, builder, "build", input, "--engine", "managed",
		"--state-dir", absolute(stateDir), "--cache-dir", absolute(stateDir+"-cache"), "--output", "table")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	fmt.Printf("$ image-builder build %s --engine managed\n", filepath.Base(input))
	return cmd.Run()
}

// show prints what the registry has now: asked anew, by a client that has nothing to do with the build.
func show(ctx context.Context, registry string) error {
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\nIMAGE\tPLATFORM\tDIGEST IN THE REGISTRY\tKIB")
	for _, tag := range []string{"latest", "tz"} {
		ref, err := name.ParseReference(registry + "/demo/hello:" + tag)
		if err != nil {
			return err
		}
		index, err := remote.Index(ref, remote.WithContext(ctx))
		if err != nil {
			return err
		}
		digest, err := index.Digest()
		if err != nil {
			return err
		}
		fmt.Fprintf(table, "%s\tindex\t%s\t\n", ref, digest)
		manifest, err := index.IndexManifest()
		if err != nil {
			return err
		}
		for _, d := range manifest.Manifests {
			size, err := imageSize(index, d)
			if err != nil {
				return err
			}
			fmt.Fprintf(table, "\t%s\t%s\t%d\n", d.Platform, d.Digest, size>>10)
		}
	}
	return table.Flush()
}

func imageSize(index v1.ImageIndex, d v1.Descriptor) (int64, error) {
	image, err := index.Image(d.Digest)
	if err != nil {
		return 0, err
	}
	manifest, err := image.Manifest()
	if err != nil {
		return 0, err
	}
	size := manifest.Config.Size
	for _, layer := range manifest.Layers {
		size += layer.Size
	}
	return size, nil
}

// stopEngine stops the managed engine, which would otherwise stay for its idle time.
func stopEngine() error {
	return managed.Stop(context.Background(), managed.Config{StateDir: absolute(stateDir), Supervisor: []string{absolute(plugin), "engine-supervisor"}})
}

func absolute(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		return path
	}
	return abs
}
