package cli

import (
	"context"

	"github.com/spf13/cobra"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/cli/progress"
	"imagebuilder/internal/command"
	"imagebuilder/plugin"
)

// Node types and operations of image-builder-plugin.
const (
	imageNode  = "imagebuilder.nodes.Image"
	create     = "create"
	engineNode = "imagebuilder.nodes.Engine"
	doctor     = "doctor"
)

// requestOptions are what build and plan have in common.
type requestOptions struct {
	file     string
	sets     []string
	output   format
	progress progress.Mode
	settings command.SettingsFlags
}

// add adds the flags to a command.
func (o *requestOptions) add(cmd *cobra.Command) {
	setFlag(cmd, &o.sets)
	outputFlag(cmd, &o.output)
	progressFlag(cmd, &o.progress)
	o.settings.Add(cmd)
}

// progressFlag adds --progress to a command.
func progressFlag(cmd *cobra.Command, mode *progress.Mode) {
	*mode = progress.Auto
	command.ChoiceFlag(cmd, command.NewChoice(mode, progress.Auto, progress.TTY, progress.Plain, progress.JSON), "progress", "",
		"how progress is shown on standard error; auto is tty on a terminal and plain elsewhere, json is one object per line")
	command.Environment(cmd.Flags(), "progress", "IMAGE_BUILDER_PROGRESS")
}

// request reads and checks the document. Nothing has been started when it fails.
func (a *app) request(ctx context.Context, o *requestOptions) (plugin.Request, error) {
	data, err := a.Read(ctx, o.file)
	if err != nil {
		return plugin.Request{}, err
	}
	doc, err := buildparams.DecodeWith(data, o.file, o.sets)
	if err != nil {
		return plugin.Request{}, err
	}
	inputs, err := buildparams.MarshalWithSecrets(doc)
	if err != nil {
		return plugin.Request{}, err
	}
	folder, err := folderOf(o.file)
	if err != nil {
		return plugin.Request{}, err
	}
	settings, err := o.settings.Marshal()
	if err != nil {
		return plugin.Request{}, err
	}
	return plugin.Request{
		NodeType: imageNode, Operation: create,
		Inputs: inputs, Settings: settings, WorkDir: folder,
	}, nil
}

// display makes the display for progress.
func (a *app) display(mode progress.Mode) (*progress.Display, error) {
	term, _ := a.LookupEnv("TERM")
	d, err := progress.New(a.Err, mode, term)
	if err != nil {
		return nil, err
	}
	a.JSONErrors = d.Mode() == progress.JSON
	return d, nil
}
