package command

import (
	"path/filepath"

	"github.com/spf13/cobra"

	"imagebuilder/internal/fault"
	"imagebuilder/plugin"
)

// PluginFlag adds --plugin to a command.
func PluginFlag(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVar(path, "plugin", "", "the plugin's executable `FILE`; by default "+plugin.MainName+" beside image-builder, then on PATH")
	Environment(cmd.Flags(), "plugin", "IMAGE_BUILDER_PLUGIN")
}

// FindPlugins gives the paths of the plugins there are, the best first. explicit, if not empty, is the only one.
func (a *App) FindPlugins(explicit string) ([]string, error) {
	dir, err := a.PluginDir()
	if err != nil {
		return nil, err
	}
	path, _ := a.LookupEnv("PATH")
	return plugin.Find(dir, path, explicit)
}

// PluginDir is the folder in which image-builder's own plugin lies.
func (a *App) PluginDir() (string, error) {
	executable, err := a.Executable()
	if err != nil {
		return "", fault.New(fault.Internal, "find the folder of image-builder: %w", err)
	}
	if real, err := filepath.EvalSymlinks(executable); err == nil {
		executable = real // a link to it does not move the plugin that lies beside it
	}
	return filepath.Dir(executable), nil
}
