package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
)

const (
	// fileSize is that of each file of a context: sources are smaller, what is built from them is larger.
	fileSize = 100 << 10
	// words is how many different words there are, and wordPart how much of a file they make; the rest is random. The
	// whole shrinks to about half under gzip, between sources and executables.
	words    = 4096
	wordPart = 0.7
)

// content is n bytes that compress about as well as what images hold, the same for a seed.
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
		if err := os.WriteFile(path, content(uint64(i), fileSize), 0o644); err != nil {
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
	return os.WriteFile(filepath.Join(dir, "d00", "f00000"), content(uint64(1_000_000+l.runs), fileSize), 0o644)
}
