package cli

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/cli/progress"
	"imagebuilder/internal/command"
	"imagebuilder/internal/config"
	"imagebuilder/internal/fault"
)

// needsCommand tells whoever runs build in a container what it needs of the machine. scripts/image-builder-cli.sh asks it.
func (a *app) needsCommand() *cobra.Command {
	o := &buildOptions{}
	cmd := &cobra.Command{
		Use:   "needs FILE",
		Short: "Print what build with the same arguments needs of the machine",
		Long: `Print what build with the same arguments needs of the machine besides a network, one on each line:

  read PATH     it reads this file or folder, if it is there
  write PATH    it writes into this folder
  env NAME      it reads this variable
  again         a file that says more could not be read: it is among those above

A document that is wrong is an error, as in build.`,
		Hidden: true,
		Args:   command.Arguments(1, 1, "one document"),
		// Whether the configuration file can be read is part of the answer.
		PersistentPreRunE: func(*cobra.Command, []string) error { return nil },
		RunE: func(cmd *cobra.Command, args []string) error {
			o.file = args[0]
			return a.runNeeds(cmd, o)
		},
	}
	o.addFlags(cmd)
	return cmd
}

func (a *app) runNeeds(cmd *cobra.Command, o *buildOptions) error {
	n := &needs{}
	if err := a.needsOfFlags(cmd, o, n); err != nil {
		return err
	}
	if err := a.needsOfDocument(cmd.Context(), o, n); err != nil {
		return err
	}
	text, err := n.text()
	if err != nil {
		return err
	}
	return a.write([]byte(text))
}

// needs are what a build needs of the machine.
type needs struct {
	read, written, env []string
	again              bool
}

// reads adds a path, and nothing for an empty one.
func (n *needs) reads(paths ...string) {
	n.read = append(n.read, slices.DeleteFunc(paths, func(p string) bool { return p == "" })...)
}

// needsOfFlags adds what flags, their variables and the configuration file name.
func (a *app) needsOfFlags(cmd *cobra.Command, o *buildOptions, n *needs) error {
	explicit := o.settings.ConfigurationPath()
	if explicit == "" {
		explicit, _ = a.LookupEnv(config.EnvironmentVariable)
	}
	path, err := config.Find(explicit, a.LookupEnv)
	if err != nil {
		return err
	}
	if path != "" {
		files, err := config.Files(path)
		if missing(path) {
			files, err = []string{path}, nil
		}
		if err != nil {
			return err
		}
		n.reads(append(files, path)...)
		n.again = slices.ContainsFunc(files, missing) // and until then it is not used
	}
	begin := a.Begin
	if n.again {
		begin = a.BeginWithoutConfiguration
	}
	if err := begin(cmd); err != nil {
		return err
	}
	a.JSONErrors = o.progress == progress.JSON
	s, err := o.settings.Settings()
	if err != nil {
		return err
	}
	n.reads(s.BuildKitCA, s.BuildKitCert, s.BuildKitKey)
	for _, node := range s.Nodes {
		n.reads(node.CA, node.Cert, node.Key)
	}
	for _, r := range s.Registries {
		n.reads(r.CA, r.Credentials)
	}
	if folder, _ := a.LookupEnv("DOCKER_CONFIG"); folder != "" {
		n.reads(filepath.Join(folder, "config.json"))
	}
	if o.resultFile != "" {
		n.written = append(n.written, filepath.Dir(o.resultFile))
	}
	n.written = append(n.written, s.StateDir, s.CacheDir)
	return nil
}

// missing tells whether nothing is at a path. No path is nothing that could be missing.
func missing(path string) bool {
	_, err := os.Stat(path)
	return path != "" && errors.Is(err, fs.ErrNotExist)
}

// needsOfDocument adds what the document names.
func (a *app) needsOfDocument(ctx context.Context, o *buildOptions, n *needs) error {
	if o.file != command.StandardInput {
		n.reads(o.file)
		if missing(o.file) {
			n.again = true
			return nil
		}
	}
	data, err := a.Read(ctx, o.file)
	if err != nil {
		return err
	}
	doc, err := buildparams.DecodeWith(data, o.file, o.sets)
	if err != nil {
		return err
	}
	folder, err := folderOf(o.file)
	if err != nil {
		return err
	}
	local := doc.Local(folder)
	n.reads(local.Paths...)
	n.env = append(n.env, local.Environment...)
	return nil
}

// text is what is printed.
func (n *needs) text() (string, error) {
	var lines []string
	seen := map[string]bool{"": true}
	// Written folders first: what is read and written is mounted once, to be written.
	for _, part := range []struct {
		word  string
		paths []string
	}{{"write", n.written}, {"read", n.read}} {
		for _, path := range part.paths {
			if seen[path] {
				continue
			}
			absolute, err := filepath.Abs(path)
			if err != nil {
				return "", fault.New(fault.Invalid, "%s: %w", path, err)
			}
			if err := mountable(absolute); err != nil {
				return "", err
			}
			if !seen[absolute] {
				lines = append(lines, part.word+" "+absolute)
			}
			seen[path], seen[absolute] = true, true
		}
	}
	for _, name := range n.env {
		lines = append(lines, "env "+name)
	}
	if n.again {
		lines = append(lines, "again")
	}
	return strings.Join(append(lines, ""), "\n"), nil
}

// ownFolders are what the container has of its own, and cannot do without.
var ownFolders = [...]string{"/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr", "/usr/bin", "/usr/lib", "/usr/local", "/usr/local/bin", "/usr/sbin", "/var", "/"}

// mountable refuses paths that cannot have the same name in a container.
func mountable(path string) error {
	if strings.ContainsFunc(path, unicode.IsControl) {
		return fault.New(fault.Invalid, "%q: a path with a line break or another control character cannot be mounted into a container", path)
	}
	below := func(folder string) bool { return strings.HasPrefix(path, folder+"/") }
	if slices.Contains(ownFolders[:], path) || below("/proc") || below("/sys") || below("/dev") {
		return fault.New(fault.Invalid, "%s: in a container, this would hide what image-builder itself needs", path).
			WithHint("put what is to be built into a folder of its own")
	}
	return nil
}
