package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/command"
	"imagebuilder/internal/fault"
	"imagebuilder/tosca"
)

// validateOptions are the options of validate.
type validateOptions struct {
	files  []string
	sets   []string
	inputs string // of templates
	output format
}

// verdict is what validate finds out about one document.
type verdict struct {
	File     string          `json:"file"`
	OK       bool            `json:"ok"`
	Error    string          `json:"error,omitempty"` // set unless OK
	Problems []fault.Problem `json:"problems,omitempty"`
}

func (a *app) validateCommand() *cobra.Command {
	o := &validateOptions{}
	cmd := &cobra.Command{
		Use:   "validate FILE...",
		Short: "Check documents and name everything that is wrong with them",
		Long: `Check build_params documents and name everything that is wrong with them at once, each problem with a JSON
pointer to the place. Nothing is fetched: whether a repository or a registry exists is not looked at.

TOSCA templates, which say so by tosca_definitions_version, are checked as deploy does it, together with their inputs
where -i gives them; each problem has file, line and column.

FILE is JSON or YAML; - is standard input. The exit code is 0 when all are in order and 2 otherwise.`,
		Example: `  image-builder validate build.yaml other.json
  image-builder validate build.yaml --output json
  image-builder validate docker_image_definition.yaml -i inputs.yaml`,
		Args:              command.Arguments(1, -1, "at least one document"),
		ValidArgsFunction: documents,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.files = args
			return a.runValidate(cmd.Context(), o)
		},
	}
	setFlag(cmd, &o.sets)
	inputsFlag(cmd, &o.inputs)
	o.output = formatTable
	command.ChoiceFlag(cmd, command.NewChoice(&o.output, formatTable, formatJSON, formatYAML), "output", "o",
		"table prints a line for each document that is in order, and problems on standard error; json and yaml print all of it")
	return cmd
}

func (a *app) runValidate(ctx context.Context, o *validateOptions) error {
	var verdicts []verdict
	var failures []error
	for _, file := range o.files {
		err := a.check(ctx, file, o)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		v := verdict{File: file, OK: err == nil}
		if err != nil {
			f := fault.As(err)
			v.Error, v.Problems = f.Message, f.Problems
			failures = append(failures, err)
		}
		verdicts = append(verdicts, v)
	}
	raw, err := marshal(verdicts)
	if err != nil {
		return err
	}
	if err := a.print(o.output, raw, verdictTable); err != nil {
		return err
	}
	switch len(failures) {
	case 0:
		return nil
	case 1:
		return failures[0]
	}
	for _, err := range failures {
		command.WriteError(a.Err, fault.As(err))
	}
	return fault.New(fault.Invalid, "%d of %d documents are not valid", len(failures), len(o.files))
}

// check reads and validates a document.
func (a *app) check(ctx context.Context, file string, o *validateOptions) error {
	data, err := a.Read(ctx, file)
	if err != nil {
		return err
	}
	if file != command.StandardInput && tosca.IsTemplate(data) { // what it imports is relative to its file
		return a.checkTemplate(ctx, file, o)
	}
	_, err = buildparams.DecodeWith(data, file, o.sets)
	return err
}

// checkTemplate validates a template, with its inputs where they are given.
func (a *app) checkTemplate(ctx context.Context, file string, o *validateOptions) error {
	if len(o.sets) > 0 {
		return fault.New(fault.Invalid, "%s: --set is for build_params, not for templates", file).WithHint("give inputs by -i")
	}
	template, err := tosca.Read(file)
	if err != nil {
		return err
	}
	var inputs *tosca.Inputs
	if o.inputs != "" {
		if inputs, err = a.readInputs(ctx, o.inputs); err != nil {
			return err
		}
	}
	top, err := template.Bind(inputs)
	if err != nil {
		return err
	}
	folder, err := currentFolder()
	if err != nil {
		return err
	}
	runner := &nodeRunner{app: a, folder: folder}
	return top.Check(runner.Check)
}

// verdictTable names the documents that are in order; the others are errors.
func verdictTable(w io.Writer, raw json.RawMessage) error {
	var verdicts []verdict
	if err := json.Unmarshal(raw, &verdicts); err != nil {
		return err
	}
	for _, v := range verdicts {
		if v.OK {
			fmt.Fprintf(w, "%s: ok\n", v.File)
		}
	}
	return nil
}
