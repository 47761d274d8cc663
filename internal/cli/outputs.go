package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"imagebuilder/internal/command"
	"imagebuilder/tosca"
)

func (a *app) outputsCommand() *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:   "outputs",
		Short: "Show the outputs of what is deployed in this folder",
		Long: `Show the outputs of the template that is deployed in this folder, as they were when deploy last ended. Those that are not
known yet are left out.`,
		Example: `  image-builder outputs
  image-builder outputs --output json`,
		Args: command.Arguments(0, 0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			info, err := a.info()
			if err != nil {
				return err
			}
			outputs := info.Outputs
			if outputs == nil {
				outputs = map[string]any{}
			}
			raw, err := marshal(outputs)
			if err != nil {
				return err
			}
			return a.print(output, raw, outputsTable)
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func (a *app) info() (*tosca.Info, error) {
	folder, err := currentFolder()
	if err != nil {
		return nil, err
	}
	return tosca.LoadInfo(folder)
}

// outputsTable shows a line for each output; lists and maps stand there as JSON.
func outputsTable(w io.Writer, raw json.RawMessage) error {
	var outputs map[string]json.RawMessage
	if err := json.Unmarshal(raw, &outputs); err != nil {
		return err
	}
	t := newTable(w)
	fmt.Fprintln(t, "OUTPUT\tVALUE")
	for _, name := range slices.Sorted(maps.Keys(outputs)) {
		value := string(outputs[name])
		var text string
		if json.Unmarshal(outputs[name], &text) == nil {
			value = text
		}
		fmt.Fprintf(t, "%s\t%s\n", name, value)
	}
	return t.Flush()
}

func (a *app) infoCommand() *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:   "info",
		Short: "Show what is known about what is deployed in this folder",
		Long: `Show what is known about what is deployed in this folder: how far it is, the template and its inputs (with **** for what
is or may be secret), and the nodes with their attributes.`,
		Example: "  image-builder info\n  image-builder info --output json",
		Args:    command.Arguments(0, 0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			info, err := a.info()
			if err != nil {
				return err
			}
			raw, err := marshal(info)
			if err != nil {
				return err
			}
			return a.print(output, raw, infoTable)
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func infoTable(w io.Writer, raw json.RawMessage) error {
	var info tosca.Info
	if err := json.Unmarshal(raw, &info); err != nil {
		return err
	}
	t := newTable(w)
	for _, line := range [][2]string{{"status", string(info.Status)}, {"template", info.Template}, {"inputs", info.InputsFile}} {
		if line[1] != "" {
			fmt.Fprintf(t, "%s\t%s\n", line[0], line[1])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(info.Inputs)) {
		value, err := json.Marshal(info.Inputs[name])
		if err != nil {
			return err
		}
		fmt.Fprintf(t, "  %s\t%s\n", name, value)
	}
	if err := t.Flush(); err != nil || len(info.Nodes) == 0 {
		return err
	}
	fmt.Fprintln(w)
	nodes, err := json.Marshal(tosca.Report{Nodes: info.Nodes})
	if err != nil {
		return err
	}
	return reportTable(w, nodes)
}
