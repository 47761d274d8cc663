// Package awkward is test support: Dockerfiles that are hard to put another base under, each with
// what is expected of it. It is linked into no executable.
//
// What is in testdata/awkward has to build: in a place where no image can be had but
// REGISTRY/base/busybox:1 (busybox, its commands in /bin) and REGISTRY/base/other:1 (the same and
// a file /other), both for linux/amd64 and linux/386. Their RUN instructions fail where something else than
// the expected image is under them. What is in testdata/refused has to be refused before any build.
package awkward

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
)

//go:embed all:testdata
var corpus embed.FS

// placeholder is what case.yaml writes for the registry that a test runs.
const placeholder = "REGISTRY"

// Case is one Dockerfile and what is asked of it.
type Case struct {
	Name       string `yaml:"-"` // its folder
	Dockerfile []byte `yaml:"-"`
	Context    fs.FS  `yaml:"-"` // the folder: Dockerfile, case.yaml and what COPY wants

	About     string            `yaml:"about"`
	Base      string            `yaml:"base"`
	Bases     map[string]string `yaml:"bases"`
	BuildArgs map[string]string `yaml:"build_args"`
	Stage     string            `yaml:"stage"`
	Platforms []string          `yaml:"platforms"` // default linux/amd64

	// Replaced are the images that are replaced on any of the platforms, each once, as the Dockerfile
	// names them with its arguments expanded; in the order of the file, platform by platform.
	Replaced []string `yaml:"replaced"`
	Under    bool     `yaml:"under"` // one of them is under the result: its layers are the result's first
	Error    string   `yaml:"error"` // of a case that is refused: message, and the hint on a line of its own
}

// Cases are the Dockerfiles that build.
func Cases() []Case { return load("testdata/awkward") }

// Refused are the Dockerfiles, and wishes for them, that are refused.
func Refused() []Case { return load("testdata/refused") }

// At is the case with a registry (host:port) in the place of REGISTRY.
func (c Case) At(registry string) Case {
	put := func(s string) string { return strings.ReplaceAll(s, placeholder, registry) }
	c.Base = put(c.Base)
	c.Bases = mapValues(c.Bases, put)
	c.BuildArgs = mapValues(c.BuildArgs, put)
	return c
}

func mapValues(m map[string]string, change func(string) string) map[string]string {
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[k] = change(v)
	}
	return out
}

// load reads a folder of cases. It panics where the corpus, which is part of the program, is broken.
func load(folder string) []Case {
	cases, err := LoadCases(corpus, folder)
	if err != nil {
		panic(err)
	}
	return cases
}

// LoadCases reads the cases below a folder of a file system: each is a folder of its own.
func LoadCases(fsys fs.FS, folder string) ([]Case, error) {
	entries, err := fs.ReadDir(fsys, folder)
	if err != nil {
		return nil, err
	}
	var cases []Case
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		c, err := loadCase(fsys, path.Join(folder, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name(), err)
		}
		cases = append(cases, c)
	}
	slices.SortFunc(cases, func(a, b Case) int { return strings.Compare(a.Name, b.Name) })
	return cases, nil
}

func loadCase(fsys fs.FS, folder string) (Case, error) {
	c := Case{Name: path.Base(folder), Platforms: []string{"linux/amd64"}}
	data, err := fs.ReadFile(fsys, path.Join(folder, "case.yaml"))
	if err != nil {
		return c, err
	}
	if err := yaml.UnmarshalWithOptions(data, &c, yaml.Strict()); err != nil {
		return c, err
	}
	if c.Dockerfile, err = fs.ReadFile(fsys, path.Join(folder, "Dockerfile")); err != nil {
		return c, err
	}
	c.Context, err = fs.Sub(fsys, folder)
	return c, err
}
