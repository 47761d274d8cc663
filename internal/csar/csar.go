// Package csar packs a TOSCA service template with all that it imports into a cloud service archive (CSAR 1.1), which
// orchestrators deploy as it is. The same files give the same bytes, on every machine and at any time.
//
// It does not look into templates beyond their imports: whether they are valid is for others to say.
package csar

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

// metaFile says where the archive begins; CSAR 1.1 gives it its name.
const metaFile = "TOSCA-Metadata/TOSCA.meta"

// Write packs the template entry of the folder tree. With it go the files that it imports, directly or not, and everything
// else in their folders, which is where playbooks stand. What is hidden is left out, and so is what Python compiled: an
// archive holds no state, and none of anybody's inputs. The creator is named in the archive.
func Write(out io.Writer, tree fs.FS, entry, creator string) error {
	p := packer{tree: tree, files: map[string][]byte{}, followed: map[string]bool{}}
	if err := p.template(entry); err != nil {
		return fmt.Errorf("pack %s: %w", entry, err)
	}
	if strings.ContainsAny(creator, "\r\n") {
		return fmt.Errorf("pack %s: the creator %q is more than one line", entry, creator)
	}
	p.files[metaFile] = fmt.Appendf(nil, "TOSCA-Meta-File-Version: 1.1\nCSAR-Version: 1.1\nCreated-By: %s\nEntry-Definitions: %s\n", creator, entry)
	if err := write(out, p.files); err != nil {
		return fmt.Errorf("pack %s: %w", entry, err)
	}
	return nil
}

// packer collects what goes into an archive.
type packer struct {
	tree     fs.FS
	files    map[string][]byte
	followed map[string]bool // templates whose imports are known
}

// template adds a template, the folders of what it imports, and so on from there.
func (p *packer) template(name string) error {
	p.followed[name] = true
	if err := p.file(name); err != nil {
		return err
	}
	imports, err := importsOf(p.files[name])
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, relative := range imports {
		if err := p.imported(path.Join(path.Dir(name), relative)); err != nil {
			return fmt.Errorf("%s: import %s: %w", name, relative, err)
		}
	}
	return nil
}

func (p *packer) imported(name string) error {
	if p.followed[name] {
		return nil
	}
	if !fs.ValidPath(name) {
		return errors.New("it is outside of the template's folder, where an orchestrator does not look")
	}
	if folder := path.Dir(name); folder != "." {
		if err := p.folder(folder); err != nil {
			return err
		}
	}
	return p.template(name)
}

// importsOf are the files that a template imports, in either of TOSCA's notations.
func importsOf(template []byte) ([]string, error) {
	var document struct {
		Imports []any `yaml:"imports"`
	}
	if err := yaml.Unmarshal(template, &document); err != nil {
		return nil, errors.New(yaml.FormatError(err, false, false))
	}
	var files []string
	for _, one := range document.Imports {
		switch one := one.(type) {
		case string:
			files = append(files, one)
		case map[string]any:
			file, ok := one["file"].(string)
			if !ok {
				return nil, fmt.Errorf("an import without file")
			}
			files = append(files, file)
		default:
			return nil, fmt.Errorf("import %v is neither a path nor a file", one)
		}
	}
	return files, nil
}

func (p *packer) folder(folder string) error {
	return fs.WalkDir(p.tree, folder, func(name string, d fs.DirEntry, err error) error {
		switch base := path.Base(name); {
		case err != nil:
			return err
		case d.IsDir() && (strings.HasPrefix(base, ".") || base == "__pycache__"):
			return fs.SkipDir
		case d.IsDir() || strings.HasPrefix(base, ".") || strings.HasSuffix(base, ".pyc"):
			return nil
		case !d.Type().IsRegular():
			return fmt.Errorf("%s is no regular file", name)
		default:
			return p.file(name)
		}
	})
}

func (p *packer) file(name string) error {
	data, err := fs.ReadFile(p.tree, name)
	if err != nil {
		return err
	}
	p.files[name] = data
	return nil
}

// write lists files and their folders by name. They are stored as they are: how a compressor works may change between
// its versions, and there is little to save.
func write(out io.Writer, files map[string][]byte) error {
	names := map[string]bool{}
	for name := range files {
		names[name] = true
		for folder := path.Dir(name); folder != "."; folder = path.Dir(folder) {
			names[folder+"/"] = true
		}
	}
	archive := zip.NewWriter(out)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		header := &zip.FileHeader{Name: name, Method: zip.Store, Modified: firstTime()}
		header.SetMode(0o644)
		if strings.HasSuffix(name, "/") {
			header.SetMode(fs.ModeDir | 0o755)
		}
		w, err := archive.CreateHeader(header)
		if err != nil {
			return err
		}
		if _, err := w.Write(files[name]); err != nil {
			return err
		}
	}
	return archive.Close()
}

// firstTime is the time of everything in an archive: the first that a zip file can say.
func firstTime() time.Time { return time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC) }
