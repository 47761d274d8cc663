//go:build linux

package testbed

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

// OwnImageVersion is the tag of the images that OwnImages makes; they are tagged latest too.
const OwnImageVersion = "test"

// OwnImages makes container images of image-builder, by their names, as make images does: for this machine's architecture alone, compressed
// badly, and by the tests' engine. It gives the folder with an archive for docker load of each, as OwnImageArchive names it. An image is made
// once for all test packages and runs until something changes that is in it; while one makes images, others wait.
func OwnImages(ctx context.Context, names ...string) (folder string, err error) {
	root, err := RepoRoot()
	if err != nil {
		return "", err
	}
	folder = filepath.Join(root, ".work", "images-test")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(folder, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	parts := filepath.Join(folder, "context")
	if err := runIn(ctx, root, "scripts/images.sh", parts, strings.Join(names, " "), runtime.GOARCH); err != nil {
		return "", err
	}
	stamps, stale := map[string]string{}, []string{}
	for _, name := range names {
		if stamps[name], err = imageStamp(root, parts, name); err != nil {
			return "", fmt.Errorf("image %s: %w", name, err)
		}
		was, err := os.ReadFile(OwnImageArchive(folder, name) + ".stamp")
		if _, missing := os.Stat(OwnImageArchive(folder, name)); err != nil || missing != nil || string(was) != stamps[name] {
			stale = append(stale, name)
		}
	}
	if len(stale) == 0 {
		return folder, nil
	}
	if err := makeOwnImages(ctx, root, stale, "-context", parts, "-archives", folder); err != nil {
		return "", err
	}
	for _, name := range stale {
		if err := os.WriteFile(OwnImageArchive(folder, name)+".stamp", []byte(stamps[name]), 0o600); err != nil {
			return "", err
		}
	}
	return folder, nil
}

// OwnImageArchive is the path of an image's archive in the folder that OwnImages gives.
func OwnImageArchive(folder, name string) string {
	return filepath.Join(folder, name+"-"+runtime.GOARCH+".tar")
}

// MakeOwnImages has internal/ownimage build images with more flags, by the tests' engine; what scripts/images.sh gathers has to be there.
func MakeOwnImages(ctx context.Context, names []string, flags ...string) error {
	root, err := RepoRoot()
	if err != nil {
		return err
	}
	return makeOwnImages(ctx, root, names, flags...)
}

func makeOwnImages(ctx context.Context, root string, names []string, flags ...string) error {
	address, release, err := StartEngine(ctx)
	if err != nil {
		return err
	}
	defer release()
	programs := filepath.Join(root, ".work", "images-test", "bin") + string(filepath.Separator)
	if err := runIn(ctx, root, "go", "build", "-trimpath", "-o", programs, "./cmd/image-builder", "./cmd/image-builder-plugin", "./internal/ownimage"); err != nil {
		return err
	}
	args := []string{
		"-builder", programs + "image-builder", "-images", strings.Join(names, ","),
		"-platforms", "linux/" + runtime.GOARCH, "-epoch", "1790000000", "-version", OwnImageVersion,
	}
	args = append(args, flags...)
	if !slices.Contains(args, "--") {
		// What takes most of the time is left out: to compress well, and then once more with other times.
		args = append(args, "--", "--set", "options.compression_level=1", "--set", "options.source_date_epoch=")
	}
	return runIn(ctx, root, programs+"ownimage", append(args, "--engine", "buildkit", "--buildkit-host", address)...)
}

// contextPart is what a Dockerfile of ours takes from the context for an architecture.
var contextPart = regexp.MustCompile(`\b(bin|root)/\S*\$\{TARGETARCH\}\S*`)

// imageStamp is a digest of all that an image is made of.
func imageStamp(root, parts, name string) (string, error) {
	files := filepath.Join(parts, "files", name)
	dockerfile, err := os.ReadFile(filepath.Join(files, "Dockerfile"))
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	digest := func(path string) error {
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		fmt.Fprintln(sum, path)
		_, err = io.Copy(sum, file)
		return err
	}
	for _, folder := range []string{files, filepath.Join(root, "internal", "ownimage")} {
		err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			return digest(path)
		})
		if err != nil {
			return "", err
		}
	}
	for _, part := range contextPart.FindAllString(string(dockerfile), -1) {
		path := filepath.Join(parts, strings.ReplaceAll(part, "${TARGETARCH}", runtime.GOARCH))
		if strings.HasPrefix(part, "bin/") {
			if err := digest(path); err != nil {
				return "", err
			}
			continue
		}
		// Debian's part is as new as the file that scripts/images.sh puts beside it.
		kind, _, _ := strings.Cut(strings.TrimPrefix(part, "root/"), "/")
		info, err := os.Stat(filepath.Join(parts, "root", kind, runtime.GOARCH+".stamp"))
		if err != nil {
			return "", err
		}
		fmt.Fprintln(sum, kind, info.ModTime().UnixNano())
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// runIn runs a command in a folder; its output is told if it fails.
func runIn(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return errors.Join(ctx.Err(), err)
	}
	return fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), args[0], err, out)
}
