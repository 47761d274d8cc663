package cli

import (
	"path/filepath"

	"github.com/spf13/cobra"

	"imagebuilder/internal/command"
	"imagebuilder/internal/fault"
)

// folderOf is the folder that relative paths in a document are relative to: the document's own, and the current
// one for standard input.
func folderOf(file string) (string, error) {
	folder := "."
	if file != command.StandardInput {
		folder = filepath.Dir(file)
	}
	absolute, err := filepath.Abs(folder)
	if err != nil {
		return "", fault.New(fault.Invalid, "folder of %s: %w", command.ShownName(file), err)
	}
	return absolute, nil
}

// documents completes the names of documents.
func documents(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return []string{"yaml", "yml", "json"}, cobra.ShellCompDirectiveFilterFileExt
}

// setFlag adds --set to a command.
func setFlag(cmd *cobra.Command, sets *[]string) {
	cmd.Flags().StringArrayVar(sets, "set", nil,
		"override a field with `PATH=VALUE`, as target.images[0].tag=v2; may be given more than once. "+
			"A secret is better given as env:NAME or file:PATH: others on this machine can see command lines")
}
