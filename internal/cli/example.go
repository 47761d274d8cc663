package cli

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"imagebuilder/internal/command"
	"imagebuilder/internal/fault"
	"imagebuilder/schemas"
)

// annotated is the folder of the examples that example prints.
const annotated = "annotated"

// exampleOptions are the options of example.
type exampleOptions struct {
	name  string // "" lists them
	out   string // "" is standard output
	force bool
}

func (a *app) exampleCommand() *cobra.Command {
	o := &exampleOptions{}
	cmd := &cobra.Command{
		Use:   "example [NAME]",
		Short: "List documents to start from, or print one",
		Long:  `List documents to start from, or print one. Comments in them explain the fields.`,
		Example: `  image-builder example
  image-builder example git
  image-builder example git -o build.yaml`,
		Args: command.Arguments(0, 1, "at most the name of an example"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			names, _ := exampleNames()
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				o.name = args[0]
			}
			return a.runExample(o)
		},
	}
	cmd.Flags().StringVarP(&o.out, "out", "o", "", "write the example to this `FILE`")
	cmd.Flags().BoolVar(&o.force, "force", false, "write over a file that is there")
	return cmd
}

func (a *app) runExample(o *exampleOptions) error {
	names, err := exampleNames()
	if err != nil {
		return err
	}
	if o.name == "" {
		if o.out != "" {
			return fault.New(fault.Invalid, "--out needs the name of an example").
				WithHint("one of %s", strings.Join(names, ", "))
		}
		return a.listExamples(names)
	}
	if !slices.Contains(names, o.name) {
		return fault.New(fault.Invalid, "there is no example %q", o.name).WithHint("there is %s", strings.Join(names, ", "))
	}
	data, err := readExample(o.name)
	if err != nil {
		return err
	}
	if o.out == "" {
		return a.write(data)
	}
	if _, err := os.Lstat(o.out); !o.force && !errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.Invalid, "write %s: it is there already", o.out).WithHint("--force writes over it")
	}
	return writeFile(o.out, data, privateMode) // passwords will be written into it
}

func (a *app) listExamples(names []string) error {
	var b bytes.Buffer
	t := newTable(&b)
	for _, name := range names {
		data, err := readExample(name)
		if err != nil {
			return err
		}
		fmt.Fprintf(t, "%s\t%s\n", name, firstComment(data))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return a.write(b.Bytes())
}

// firstComment is the text of a document's first line, which says what it shows.
func firstComment(data []byte) string {
	line, _ := bufio.NewReader(bytes.NewReader(data)).ReadString('\n')
	return strings.TrimSpace(strings.TrimLeft(line, "# "))
}

func exampleNames() ([]string, error) {
	files, err := fs.Glob(schemas.Examples(), path.Join(annotated, "*.yaml"))
	if err != nil {
		return nil, err
	}
	for i, file := range files {
		files[i] = strings.TrimSuffix(path.Base(file), ".yaml")
	}
	return files, nil
}

func readExample(name string) ([]byte, error) {
	return fs.ReadFile(schemas.Examples(), path.Join(annotated, name+".yaml"))
}
