package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const (
	// fileSize is that of each file of a context: sources are smaller, what is built from them is larger.
	fileSize = 100 << 10
	// words is how many different words there are, and wordPart how much of a file they make; the rest is random. The
	// whole shrinks to about half under gzip, between sources and executables.
	words    = 4096
	wordPart = 0.7
)

// content is n bytes of a repository that compress about as well as what images hold, the same for a seed.
func content(seed uint64, n int) []byte {
	random := rand.New(rand.NewPCG(seed, 1))
	vocabulary := rand.New(rand.NewPCG(7, 7))
	list := make([]string, words)
	for i := range list {
		list[i] = fmt.Sprintf("%08x ", vocabulary.Uint32())
	}
	data := make([]byte, 0, n)
	text := int(float64(n) * wordPart)
	for len(data) < text {
		data = append(data, list[random.IntN(words)]...)
	}
	for len(data) < n {
		data = append(data, byte(random.Uint32()))
	}
	return data[:n]
}

// material is what contexts are made of: the sources and the programs of the Go toolchain, which is what images hold. Made-up
// bytes that shrink as much take other times to compress than real ones do.
type material []byte

// readMaterial reads the toolchain's files.
func readMaterial(ctx context.Context) (material, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("go env GOROOT: %w", err)
	}
	var all material
	root := strings.TrimSpace(string(out))
	for _, dir := range []string{"src", "bin", "pkg"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			data, err := os.ReadFile(path)
			all = append(all, data...)
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if len(all) < enoughMaterial {
		return nil, fmt.Errorf("%s holds %d bytes only: is this all of a Go toolchain?", root, len(all))
	}
	return all, nil
}

// enoughMaterial is what a toolchain's sources and programs come to at least; contexts larger than it take pieces that overlap.
const enoughMaterial = 50 << 20

// piece is n bytes of it with a line in front that no other seed has, the same for a seed.
func (m material) piece(seed uint64, n int) []byte {
	const prime = 1_000_003 // so that seeds in a row are apart
	at := int(seed*prime*7) % (len(m) - n)
	return append(fmt.Appendf(nil, "%d\n", seed), m[at:at+n]...)[:n]
}

// makeContext writes a folder of files of about size bytes, and a Dockerfile.
func (l *lab) makeContext(name string, size int64, dockerfile string) (string, error) {
	dir := l.path(name)
	for i := range int(size / fileSize) {
		folder := filepath.Join(dir, fmt.Sprintf("d%02d", i%50))
		if i < 50 {
			if err := os.MkdirAll(folder, 0o755); err != nil {
				return "", err
			}
		}
		path := filepath.Join(folder, fmt.Sprintf("f%05d", i))
		if err := os.WriteFile(path, l.material.piece(uint64(i), fileSize), 0o644); err != nil {
			return "", err
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	return dir, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644)
}

// changeFile gives one file of a context a content that it never had.
func (l *lab) changeFile(dir string) error {
	l.runs++
	return os.WriteFile(filepath.Join(dir, "d00", "f00000"), l.material.piece(uint64(1_000_000+l.runs), fileSize), 0o644)
}
