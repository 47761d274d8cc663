package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"imagebuilder/internal/cli/progress"
	"imagebuilder/internal/command"
	"imagebuilder/tosca"
)

// deliverReport prints what has become of a deployment, and passes on the error that came with it.
func (a *app) deliverReport(o *hostOptions, display *progress.Display, report *tosca.Report, err error) error {
	if report == nil {
		return err
	}
	raw, bad := marshal(report)
	if bad != nil {
		return bad
	}
	if bad := a.print(o.output, raw, reportTable); bad != nil && err == nil {
		err = bad
	}
	if display.Mode() == progress.JSON {
		return err
	}
	for _, node := range report.Nodes {
		for _, note := range node.Notes {
			fmt.Fprintf(a.Err, "%s: %s\n", node.Name, note)
		}
	}
	if len(report.Nodes) == 0 {
		fmt.Fprintln(a.Err, "nothing is deployed here")
	}
	return err
}

// builtImage is what the attribute images of an image node holds.
type builtImage struct {
	Ref       string   `json:"ref"`
	Digest    string   `json:"digest"`
	Platforms []string `json:"platforms"`
	Size      int64    `json:"size"`
	Unchanged bool     `json:"unchanged"`
}

// reportTable shows a line for each image, and for each node that has none.
func reportTable(w io.Writer, raw json.RawMessage) error {
	var r tosca.Report
	if err := json.Unmarshal(raw, &r); err != nil {
		return err
	}
	t := newTable(w)
	fmt.Fprintln(t, "NODE\tSTATE\tIMAGE\tPLATFORM\tSIZE\tDIGEST")
	for _, node := range r.Nodes {
		nodeRows(t, node)
	}
	return t.Flush()
}

func nodeRows(t *tabwriter.Writer, node tosca.NodeReport) {
	state := node.State
	switch {
	case node.Error != "":
		state += ": " + command.FirstLine(node.Error)
	case node.Blocked != "":
		state += ": it needs " + node.Blocked
	}
	images := imagesOf(node)
	if len(images) == 0 || node.Error != "" || node.State == "cancelled" || node.State == "removed" {
		fmt.Fprintf(t, "%s\t%s\n", node.Name, state)
		return
	}
	for _, image := range images {
		now := state
		if image.Unchanged && state == "created" {
			now = "unchanged"
		}
		platform := strings.Join(image.Platforms, ", ")
		if len(image.Platforms) > 1 {
			platform = plural(len(image.Platforms), "platform")
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", node.Name, now, image.Ref, platform, humanSize(image.Size), image.Digest)
	}
}

func imagesOf(node tosca.NodeReport) []builtImage {
	raw, err := json.Marshal(node.Attributes["images"])
	var images []builtImage
	if err != nil || json.Unmarshal(raw, &images) != nil {
		return nil
	}
	return images
}
