package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"imagebuilder/internal/cli/onlooker"
	"imagebuilder/internal/cli/progress"
	"imagebuilder/internal/command"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/imagenode"
	"imagebuilder/plugin"
)

// noProgress shows nothing while a lifecycle operation runs; what else there is counts as auto.
const noProgress progress.Mode = "none"

// lifecycleOptions are the options of lifecycle.
type lifecycleOptions struct {
	operation string
	progress  progress.Mode
	settings  command.SettingsFlags
	remote    remoteOptions
}

// lifecycleRequest is what an orchestrator writes to standard input.
type lifecycleRequest struct {
	Node     string          `json:"node"`      // the node's name
	NodeType string          `json:"node_type"` // default imagenode.NodeType
	Folder   string          `json:"folder"`    // where the deployment was started, absolute
	Inputs   json.RawMessage `json:"inputs"`    // of the operation
}

// lifecycleAnswer is what it reads from standard output.
type lifecycleAnswer struct {
	Attributes map[string]any `json:"attributes"`
	Notes      []string       `json:"notes"`
}

func (a *app) lifecycleCommand() *cobra.Command {
	o := &lifecycleOptions{}
	cmd := &cobra.Command{
		Use:   "lifecycle OPERATION",
		Short: "Perform an operation of an image node, for orchestrators such as xOpera",
		Long: `Perform one operation of one image node of a TOSCA template: create, rebuild, verify or delete. This is what the
playbook of the node-type library runs; for builds by hand there is build.

Standard input is one JSON document:

  {"node": "image-builder", "folder": "/where/opera/was/started", "inputs": {"source": {...}, "target": {...}}}

create and rebuild take source, target and options as build_params has them, custom_workdir, owner, and the base node's
base_target with base_tag, or base_ref; delete takes target, removal and owner; verify takes target and owner.
What is null, "", {} or [] counts as absent. Standard output is one JSON document, {"attributes": {...}, "notes": [...]}.

delete removes tags, no images, and of these only tags that name an image that this node has pushed. A tag that is gone,
or that somebody else has moved, is a note and no error.

With --on, the operation is carried out on another machine: see docs/tosca.md.

Standard error has nothing but the error, if there is one. Progress goes to the terminal of opera, if that is what runs us, and
to FOLDER/.image-builder/logs/NODE.OPERATION.log.`,
		Example: `  image-builder lifecycle create < request.json
  echo '{"node": "app", "folder": "'$PWD'", "inputs": {"target":
    {"registry": {"url": "registry.example.com"}, "images": [{"image": "team/app", "tag": "v1"}]}}}' |
      image-builder lifecycle delete
  IMAGE_BUILDER_ENGINE=managed IMAGE_BUILDER_PROGRESS=none opera deploy -i inputs.yaml docker_image_definition.yaml`,
		Args:      command.Arguments(1, 1, "one operation: "+strings.Join(imagenode.Operations(), ", ")),
		ValidArgs: imagenode.Operations(),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.operation = args[0]
			return a.runLifecycle(cmd.Context(), o)
		},
	}
	o.progress = progress.Auto
	command.ChoiceFlag(cmd, command.NewChoice(&o.progress, progress.Auto, noProgress, progress.TTY, progress.Plain, progress.JSON), "progress", "",
		"whether progress is shown: none, or as plain lines; the log file has it anyway")
	command.Environment(cmd.Flags(), "progress", "IMAGE_BUILDER_PROGRESS")
	o.settings.Add(cmd)
	o.remote.add(cmd.Flags())
	return cmd
}

func (a *app) runLifecycle(ctx context.Context, o *lifecycleOptions) error {
	op, err := a.readOperation(ctx, o)
	if err != nil {
		return err
	}
	server, err := a.server(&op, o)
	if err != nil {
		return err
	}
	request, err := imagenode.Request(op)
	if err != nil {
		return err
	}
	watching := a.watchers(op, o.progress)
	defer watching.close()
	journal := openJournal(op, watching.all...)
	var raw json.RawMessage
	if server != nil {
		raw, err = operateOn(ctx, server, request, journal)
	} else {
		raw, err = a.operate(ctx, o, request, journal)
	}
	journal.close(err)
	if err != nil {
		return err
	}
	attributes, err := imagenode.Attributes(op, raw)
	if err != nil {
		return err
	}
	if _, built := attributes["build_log"]; built {
		attributes["build_log"] = journal.path
	}
	answer, err := marshal(lifecycleAnswer{Attributes: attributes, Notes: imagenode.Notes(op, raw)})
	if err != nil {
		return err
	}
	return a.write(append(answer, '\n'))
}

// readOperation reads the request from standard input.
func (a *app) readOperation(ctx context.Context, o *lifecycleOptions) (imagenode.Operation, error) {
	data, err := a.Read(ctx, command.StandardInput)
	if err != nil {
		return imagenode.Operation{}, err
	}
	var r lifecycleRequest
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		return imagenode.Operation{}, fault.New(fault.Invalid, "read the request from standard input: %w", err).
			WithHint(`it is one JSON document: {"node": "NAME", "folder": "/FOLDER", "inputs": {...}}`)
	}
	settings, err := o.settings.Marshal()
	if err != nil {
		return imagenode.Operation{}, err
	}
	return imagenode.Operation{
		Node: r.Node, NodeType: r.NodeType, Name: o.operation, Folder: r.Folder, Inputs: r.Inputs, Settings: settings,
	}, nil
}

// operate has the plugin do it.
func (a *app) operate(ctx context.Context, o *lifecycleOptions, request plugin.Request, j *journal) (json.RawMessage, error) {
	client, err := a.startPlugin(ctx, o.settings.Plugin, request.NodeType, request.Operation)
	if err != nil {
		return nil, err
	}
	defer a.closePlugin(client)
	return client.Execute(ctx, request, j.display.Emit)
}

// watchers are those who look on while an operation runs, if there are any.
type watchers struct {
	all      []io.Writer
	onlooker *onlooker.Onlooker
}

func (a *app) watchers(op imagenode.Operation, mode progress.Mode) watchers {
	if mode == noProgress {
		return watchers{}
	}
	if found := onlooker.Find(op.Node + " | "); found != nil {
		return watchers{all: []io.Writer{found}, onlooker: found}
	}
	if progress.IsTerminal(a.Err) { // somebody runs this by hand
		return watchers{all: []io.Writer{a.Err}}
	}
	return watchers{}
}

func (w watchers) close() { w.onlooker.Close() }
