package cli

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/command"
	"imagebuilder/internal/fault"
)

// convertOptions are the options of convert.
type convertOptions struct {
	in, out string
	to      buildparams.Format // "" is the other one
}

func (a *app) convertCommand() *cobra.Command {
	o := &convertOptions{}
	cmd := &cobra.Command{
		Use:   "convert [IN [OUT]]",
		Short: "Turn documents from JSON into YAML and back",
		Long: `Turn a document from JSON into YAML, or from YAML into JSON: a file into a file, all documents of a folder
into another folder, or standard input into standard output. Without OUT the document goes to standard output.

The form to write is that of --to, or else of OUT's extension, or else the one that the input has not.
Secrets stand in the output as they do in the input, and a new file lets nobody read it who could not
read the old one. The same input gives the same bytes every time.`,
		Example: `  image-builder convert build.json build.yaml
  image-builder convert documents/ converted/ --to yaml
  image-builder convert < build.yaml > build.json`,
		Args:              command.Arguments(0, 2, "at most an input and an output"),
		ValidArgsFunction: documents,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.in = command.StandardInput
			if len(args) > 0 {
				o.in = args[0]
			}
			if len(args) > 1 {
				o.out = args[1]
			}
			return a.runConvert(cmd.Context(), o)
		},
	}
	command.ChoiceFlag(cmd, command.NewChoice(&o.to, buildparams.JSON, buildparams.YAML), "to", "", "form to write")
	return cmd
}

func (a *app) runConvert(ctx context.Context, o *convertOptions) error {
	if info, err := os.Stat(o.in); err == nil && info.IsDir() {
		if o.out == "" || o.out == command.StandardInput {
			return fault.New(fault.Invalid, "convert %s: a folder needs a folder to convert into", o.in).
				WithHint("image-builder convert %s OUT", o.in)
		}
		return a.convertFolder(ctx, o)
	}
	toFile := o.out != "" && o.out != command.StandardInput
	if info, err := os.Stat(o.out); toFile && err == nil && info.IsDir() {
		return fault.New(fault.Invalid, "convert %s: %s is a folder", command.ShownName(o.in), o.out).
			WithHint("name the file to write")
	}
	to := o.to
	if to == "" && toFile {
		to = formatOf(o.out)
	}
	out, err := a.convertOne(ctx, o.in, to)
	if err != nil {
		return err
	}
	if !toFile {
		return a.write(out)
	}
	return writeFile(o.out, out, modeOf(o.in))
}

// convertOne gives a document in another form; the zero form is the one that it has not.
func (a *app) convertOne(ctx context.Context, file string, to buildparams.Format) ([]byte, error) {
	data, err := a.Read(ctx, file)
	if err != nil {
		return nil, err
	}
	if to == "" {
		to = other(formatOf(file), data)
	}
	return buildparams.Convert(data, file, to)
}

// convertFolder converts all documents below a folder, or none when one of them is wrong.
func (a *app) convertFolder(ctx context.Context, o *convertOptions) error {
	type converted struct {
		in, out string
		data    []byte
	}
	var all []converted
	from := map[string]string{} // output → input
	var failures []error
	files, err := documentsBelow(o.in, o.out)
	if err != nil {
		return err
	}
	for _, name := range files {
		in := filepath.Join(o.in, name)
		to := o.to
		if to == "" {
			to = other(formatOf(name), nil)
		}
		data, err := a.convertOne(ctx, in, to)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			failures = append(failures, err)
			continue
		}
		out := filepath.Join(o.out, strings.TrimSuffix(name, filepath.Ext(name))+"."+string(to))
		if twin := from[out]; twin != "" {
			return fault.New(fault.Invalid, "convert %s: %s and %s would both become %s", o.in, twin, in, out)
		}
		from[out] = in
		all = append(all, converted{in, out, data})
	}
	if len(failures) == 1 {
		return failures[0]
	}
	if len(failures) > 1 {
		for _, err := range failures {
			command.WriteError(a.Err, fault.As(err))
		}
		return fault.New(fault.Invalid, "%d of %d documents are not valid; nothing was written", len(failures), len(files))
	}
	for _, c := range all {
		if err := os.MkdirAll(filepath.Dir(c.out), 0o777); err != nil { // the user's umask decides
			return fault.New(fault.Invalid, "write %s: %w", c.out, command.Cause(err))
		}
		if err := writeFile(c.out, c.data, modeOf(c.in)); err != nil {
			return err
		}
	}
	return nil
}

// documentsBelow names the documents below a folder, except those below another one that may lie in it.
func documentsBelow(folder, except string) ([]string, error) {
	var files []string
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && filepath.Clean(path) == filepath.Clean(except) && filepath.Clean(path) != filepath.Clean(folder):
			return fs.SkipDir
		case entry.IsDir() || formatOf(path) == "":
			return nil
		}
		name, err := filepath.Rel(folder, path)
		files = append(files, name)
		return err
	})
	if err != nil {
		return nil, fault.New(fault.Invalid, "convert %s: %w", folder, err)
	}
	if len(files) == 0 {
		return nil, fault.New(fault.Invalid, "convert %s: there is no .json, .yaml or .yml file", folder)
	}
	return files, nil
}

// formatOf is the form that a file's extension names, or "".
func formatOf(file string) buildparams.Format {
	switch strings.ToLower(filepath.Ext(file)) {
	case ".json":
		return buildparams.JSON
	case ".yaml", ".yml":
		return buildparams.YAML
	}
	return ""
}

// other is the form that a document has not; where its extension says nothing, its first character does.
func other(f buildparams.Format, data []byte) buildparams.Format {
	if f == buildparams.JSON || f == "" && bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		return buildparams.YAML
	}
	return buildparams.JSON
}

// privateMode is for what may hold secrets and came from nowhere that says who may read it.
const privateMode = 0o600

// modeOf is who may read and write a file.
func modeOf(file string) os.FileMode {
	info, err := os.Stat(file)
	if file == command.StandardInput || err != nil || !info.Mode().IsRegular() {
		return privateMode
	}
	return info.Mode().Perm()
}
