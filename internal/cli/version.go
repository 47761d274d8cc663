package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"imagebuilder/internal/command"
)

// versionOptions are the options of version.
type versionOptions struct {
	output format
	plugin string
}

// versions is what version prints.
type versions struct {
	Version  string         `json:"version"`
	Go       string         `json:"go"`
	Platform string         `json:"platform"`
	Plugin   *pluginVersion `json:"plugin,omitempty"` // absent when none was found
}

type pluginVersion struct {
	Path    string `json:"path"`
	Name    string `json:"name,omitempty"`
	Version string `json:"version,omitempty"`
	Error   string `json:"error,omitempty"` // why it did not say more
}

func (a *app) versionCommand() *cobra.Command {
	o := &versionOptions{}
	cmd := &cobra.Command{
		Use:               "version",
		Short:             "Print the version of image-builder and of its plugin",
		Long:              `Print the version of image-builder and of the plugin that it would use.`,
		Example:           "  image-builder version\n  image-builder version --output json",
		Args:              command.Arguments(0, 0, "no arguments"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.runVersion(cmd.Context(), o) },
	}
	o.output = formatTable
	command.ChoiceFlag(cmd, command.NewChoice(&o.output, formatTable, formatJSON, formatYAML), "output", "o", "how it is printed")
	command.PluginFlag(cmd, &o.plugin)
	return cmd
}

// answerWithin is how long a plugin may take to say what it is. It needs milliseconds; a machine that swaps, seconds.
const answerWithin = 10 * time.Second

func (a *app) runVersion(ctx context.Context, o *versionOptions) error {
	raw, err := marshal(versions{
		Version: a.Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
		Plugin: a.pluginVersion(ctx, o.plugin),
	})
	if err != nil {
		return err
	}
	return a.print(o.output, raw, versionTable)
}

func versionTable(w io.Writer, raw json.RawMessage) error {
	var v versions
	if err := json.Unmarshal(raw, &v); err != nil {
		return err
	}
	fmt.Fprintf(w, "image-builder %s (%s, %s)\n", v.Version, v.Go, v.Platform)
	switch p := v.Plugin; {
	case p == nil:
		fmt.Fprintln(w, "no plugin found")
	case p.Error != "":
		fmt.Fprintf(w, "plugin %s: %s\n", p.Path, command.FirstLine(p.Error))
	default:
		fmt.Fprintf(w, "%s %s (%s)\n", p.Name, p.Version, p.Path)
	}
	return nil
}
