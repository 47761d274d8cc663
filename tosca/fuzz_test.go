package tosca

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"imagebuilder/internal/fault"
)

// FuzzTemplate: no template and no inputs end the process, and every error is theirs, with its place.
func FuzzTemplate(f *testing.F) {
	library := map[string][]byte{}
	for _, name := range []string{"library/image/types.yaml", "library/image/data_types.yaml"} {
		data, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			f.Fatal(err)
		}
		library[name] = data
	}
	archives, err := filepath.Glob("testdata/refused/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range archives {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			f.Fatal(err)
		}
		files := map[string][]byte{}
		for _, file := range archive.Files {
			files[file.Name] = file.Data
		}
		f.Add(files["template.yaml"], files["inputs.yaml"])
	}
	for _, pair := range [][2]string{{"docker_image_definition.yaml", "inputs.yaml"}, {"image_graph.yaml", "inputs_graph.yaml"}} {
		template, err := os.ReadFile(pair[0])
		if err != nil {
			f.Fatal(err)
		}
		inputs, err := os.ReadFile(pair[1])
		if err != nil {
			f.Fatal(err)
		}
		f.Add(template, inputs)
	}
	f.Fuzz(func(t *testing.T, template, inputs []byte) {
		open := func(file string) ([]byte, string, error) {
			if file == "template.yaml" {
				return template, file, nil
			}
			if data := library[filepath.ToSlash(file)]; data != nil {
				return data, file, nil
			}
			return nil, "", os.ErrNotExist
		}
		read, p, err := read("template.yaml", open)
		if err != nil {
			t.Fatal(err)
		}
		requirePlaces(t, p)
		if len(p.list) > 0 {
			return
		}
		p = &problems{}
		read.bind(nil, p)
		requirePlaces(t, p)
		in := readInputs(inputs, "inputs.yaml", p)
		top := read.bind(in, p)
		requirePlaces(t, p)
		if len(p.list) > 0 {
			return
		}
		m, err := newMasker()
		if err != nil {
			t.Fatal(err)
		}
		top.secrets(m)
		top.maskedInputs(m)
		if err := top.Check(func(Job) error { return nil }); err != nil && fault.KindOf(err) != fault.Invalid {
			t.Fatal(err)
		}
	})
}

func requirePlaces(t *testing.T, p *problems) {
	t.Helper()
	for _, one := range p.list {
		if one.at.File == "" || one.at.Line < 1 || one.at.Column < 1 {
			t.Fatalf("%s has no place: %v", one.message, one.at)
		}
	}
}
