package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/result"
)

// The contenders' names.
const (
	ours      = "image-builder"
	unchanged = "image-builder, unchanged"
	buildctl  = "buildctl"
	buildx    = "buildx"
	bake      = "buildx bake"
	buildah   = "buildah"
)

// reference cuts a repository into what a document has of it.
func (l *lab) image(repository, tag string) buildparams.Image {
	return buildparams.Image{Image: strings.TrimPrefix(repository, l.registry.Host+"/"), Tag: tag}
}

// local is a document for a folder with a Dockerfile in it.
func (l *lab) local(dir string, images ...buildparams.Image) buildparams.Document {
	return buildparams.Document{
		Source: buildparams.Source{
			Dockerfile:   &buildparams.Dockerfile{URL: "file://" + filepath.Join(dir, "Dockerfile")},
			BuildContext: &buildparams.BuildContext{Path: dir},
		},
		Target: buildparams.Target{Registry: buildparams.Registry{URL: l.registry.Host}, Images: images},
	}
}

// engineFlags have image-builder use the lab's daemon as its own, which is how most people run it.
func (l *lab) engineFlags() []string {
	return []string{
		"--engine", "managed", "--state-dir", l.engine.StateDir, "--engine-idle", l.engine.Idle.String(),
		"--engine-cache-cap", fmt.Sprintf("%dMiB", l.engine.CacheCap>>20), "--cache-dir", l.path("mirrors"),
	}
}

// build runs image-builder build with a document's file.
func (l *lab) build(ctx context.Context, file string, flags ...string) (*result.Result, float64, error) {
	argv := append([]string{l.builder, "build", file, "--output", "json", "--progress", "plain"}, flags...)
	out, took, err := l.run(ctx, "", argv...)
	if err != nil {
		return nil, took, err
	}
	var r result.Result
	if err := json.Unmarshal(out, &r); err != nil {
		return nil, took, fmt.Errorf("read image-builder's result: %w", err)
	}
	return &r, took, nil
}

// forced adds --force, where there is such a flag.
func (l *lab) forced(flags []string) []string {
	if !l.force {
		return flags
	}
	return append(flags, "--force")
}

func (l *lab) runBuildctl(ctx context.Context, dir, ref string) (float64, error) {
	return l.time(ctx, dir, l.buildctl, "--addr", l.lease.Address, "build", "--progress", "plain", "--frontend", "dockerfile.v0",
		"--local", "context="+dir, "--local", "dockerfile="+dir, "--output", "type=image,push=true,name="+ref)
}

func (l *lab) runBuildx(ctx context.Context, dir, ref string) (float64, error) {
	return l.time(ctx, dir, l.buildx, "build", "--progress", "plain", "--push", "--tag", ref, dir)
}

// buildahFlags give buildah a store of its own. Debian's crun does not know a flag that this buildah gives it, and
// chroot isolation is what works without privileges that containers seldom have.
func (l *lab) buildahFlags() []string {
	return []string{
		"buildah", "--root", l.path("buildah", "root"), "--runroot", l.path("buildah", "run"), "--storage-driver", "overlay",
	}
}

func (l *lab) runBuildah(ctx context.Context, dir, ref string) (float64, error) {
	build := append(l.buildahFlags(), "build", "--quiet", "--layers", "--isolation", "chroot", "--tls-verify=false", "--tag", ref, dir)
	built, err := l.time(ctx, dir, build...)
	if err != nil {
		return built, err
	}
	pushed, err := l.time(ctx, dir, append(l.buildahFlags(), "push", "--quiet", "--tls-verify=false", ref)...)
	return built + pushed, err
}

// removeBuildah empties buildah's store.
func (l *lab) removeBuildah() error {
	if _, err := os.Stat(l.path("buildah")); err != nil {
		return nil
	}
	ctx := context.Background()
	_, err := l.time(ctx, "", append(l.buildahFlags(), "rm", "--all")...)
	if err == nil {
		_, err = l.time(ctx, "", append(l.buildahFlags(), "rmi", "--all", "--force")...)
	}
	if err != nil {
		return err
	}
	// Its store is mounted on itself while it is used.
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && strings.HasPrefix(fields[4], l.path("buildah")) {
			if _, err := l.time(ctx, "", "umount", fields[4]); err != nil {
				return err
			}
		}
	}
	return os.RemoveAll(l.path("buildah"))
}
