package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/docker/go-units"

	"imagebuilder/internal/command"
	"imagebuilder/internal/result"
)

// newTable writes columns that are two spaces apart.
func newTable(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 0, 0, 2, ' ', 0) }

// humanSize is a size as registries show it, in powers of ten: 12.3MB.
func humanSize(bytes int64) string { return units.HumanSizeWithPrecision(float64(bytes), 3) }

// resultTable shows what was built: a line for each image, and under an index one for each platform.
func resultTable(w io.Writer, raw json.RawMessage) error {
	var r result.Result
	if err := json.Unmarshal(raw, &r); err != nil {
		return err
	}
	t := newTable(w)
	fmt.Fprintln(t, "IMAGE\tPLATFORM\tSIZE\tDIGEST")
	for _, image := range r.Images {
		switch {
		case image.Error != nil:
			fmt.Fprintf(t, "%s\t\t\tfailed: %s\n", image.Ref, command.FirstLine(image.Error.Message))
		case len(image.Platforms) == 1:
			p := image.Platforms[0]
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", image.Ref, p.Platform, humanSize(p.Size), image.Digest)
		default:
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", image.Ref, plural(len(image.Platforms), "platform"), humanSize(totalSize(image)), image.Digest)
			for _, p := range image.Platforms {
				fmt.Fprintf(t, "\t%s\t%s\t%s\n", p.Platform, humanSize(p.Size), p.Digest)
			}
		}
	}
	return t.Flush()
}

func totalSize(image result.ImageResult) int64 {
	var total int64
	for _, p := range image.Platforms {
		total += p.Size
	}
	return total
}

// planTable shows what would be built.
func planTable(w io.Writer, raw json.RawMessage) error {
	var p result.Plan
	if err := json.Unmarshal(raw, &p); err != nil {
		return err
	}
	t := newTable(w)
	field := func(name, value string) {
		if value != "" {
			fmt.Fprintf(t, "%s\t%s\n", name, value)
		}
	}
	field("source", p.Source.URL)
	field("commit", p.Source.Commit)
	field("dockerfile", p.Source.Dockerfile)
	field("engine", p.Engine)
	for _, image := range p.Images {
		fmt.Fprintln(t)
		field("image", image.Ref)
		field("  platforms", strings.Join(image.Platforms, ", "))
		for _, platform := range image.Platforms {
			if node := image.Nodes[platform]; node != "" {
				field("  on a node", platform+" at "+node)
			}
		}
		field("  stage", image.Stage)
		for _, base := range image.Bases {
			field("  base", baseLine(base))
		}
		field("  push", image.Push)
	}
	return t.Flush()
}

// baseLine is "alpine:3.20 replaced by my/alpine:1@sha256:…".
func baseLine(b result.PlanBase) string {
	ref := b.Ref
	if b.Digest != "" && !strings.Contains(ref, "@") {
		ref += "@" + b.Digest
	}
	switch {
	case b.Replaced:
		return b.From + " replaced by " + ref
	case ref == "" || ref == b.From:
		return b.From
	default:
		return b.From + " is " + ref
	}
}

// doctorTable shows what this machine can do.
func doctorTable(w io.Writer, raw json.RawMessage) error {
	var d result.Doctor
	if err := json.Unmarshal(raw, &d); err != nil {
		return err
	}
	for _, e := range d.Engines {
		fmt.Fprintf(w, "%s  %s\n", mark(e.Available), joined(" ", "engine", e.Name, e.Version, e.Address))
		indented(w, platformLines(e.Platforms)...)
		indented(w, e.Detail, fix(e.Fix))
	}
	for _, e := range d.Nodes {
		fmt.Fprintf(w, "%s  %s\n", mark(e.Available), joined(" ", "node for", e.Name, e.Version, e.Address))
		indented(w, platformLines(e.Platforms)...)
		indented(w, e.Detail, fix(e.Fix))
	}
	for _, c := range d.Checks {
		fmt.Fprintf(w, "%s  %s\n", mark(c.OK), c.Name)
		indented(w, c.Detail, fix(c.Fix))
	}
	if m := d.Managed; m.StateDir != "" {
		state := "is not running"
		if m.Running {
			state = "is running"
		}
		room := humanSize(m.DiskBytes)
		if m.CapBytes > 0 {
			room += " of at most " + humanSize(m.CapBytes)
		}
		fmt.Fprintf(w, "the managed engine %s; %s takes %s\n", state, m.StateDir, room)
	}
	return nil
}

// mark says at the start of a line whether something is in order.
func mark(ok bool) string {
	if ok {
		return "ok"
	}
	return "--"
}

func fix(command string) string {
	if command == "" {
		return ""
	}
	return "fix: " + command
}

// indented writes what is not empty, under the text of the line before.
func indented(w io.Writer, lines ...string) {
	for _, line := range lines {
		if line != "" {
			fmt.Fprintf(w, "    %s\n", strings.ReplaceAll(strings.TrimRight(line, "\n"), "\n", "\n    "))
		}
	}
}

func joined(separator string, words ...string) string {
	var out []string
	for _, word := range words {
		if word != "" {
			out = append(out, word)
		}
	}
	return strings.Join(out, separator)
}

// platformLines group platforms by how they run.
func platformLines(platforms []result.PlatformReport) []string {
	var lines []string
	for _, way := range []struct {
		how   result.How
		label string
	}{{result.Native, "native: "}, {result.Emulated, "emulated: "}, {result.None, "without RUN: "}} {
		var names []string
		for _, p := range platforms {
			if p.How == way.how {
				names = append(names, p.Platform)
			}
		}
		if len(names) > 0 {
			lines = append(lines, way.label+strings.Join(names, ", "))
		}
	}
	return lines
}
