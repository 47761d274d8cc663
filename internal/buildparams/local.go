package buildparams

import (
	"net/url"
	"path/filepath"
	"slices"
	"strings"
)

// Local is what a document names of the machine that it is built on.
type Local struct {
	Paths       []string // of files and folders, absolute; whether they are there is not looked at
	Environment []string // names of variables
}

// Local finds what the document names of the machine: repositories, Dockerfiles and contexts on its disk, and references to secrets.
// Relative paths are relative to dir. Both lists are sorted, with nothing in them twice.
func (d *Document) Local(dir string) Local {
	var l Local
	path := func(p string) {
		if p == "" {
			return
		}
		if !filepath.IsAbs(p) {
			p = filepath.Join(dir, p)
		}
		l.Paths = append(l.Paths, filepath.Clean(p))
	}
	reference := func(text string) {
		if name, ok := strings.CutPrefix(text, "env:"); ok {
			l.Environment = append(l.Environment, name)
		}
		if file, ok := strings.CutPrefix(text, "file:"); ok {
			path(file)
		}
	}
	if g := d.Source.GitRepo; g != nil {
		path(fileURL(g.URL))
	}
	if f := d.Source.Dockerfile; f != nil {
		path(fileURL(f.URL))
	}
	if c := d.Source.BuildContext; c != nil {
		path(fileURL(c.URL))
		path(c.Path)
	}
	for _, field := range d.secretFields() {
		reference(field.value.Reference())
	}
	if cert := d.Target.Registry.CACert; strings.HasPrefix(cert, "file:") { // otherwise it is the certificate itself
		reference(cert)
	}
	for _, list := range []*[]string{&l.Paths, &l.Environment} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	return l
}

// fileURL is the path of a file URL, and "" for every other.
func fileURL(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "file" {
		return ""
	}
	return u.Path
}
