package main

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// The page keeps what people wrote around these lines.
const (
	begin = "<!-- written by make bench: begin -->"
	end   = "<!-- written by make bench: end -->"
)

// render writes the table, as Markdown that is also legible as it is.
func render(measures []measure) string {
	rows := [][]string{{"", "work", "program", "n", "min", "median", "ratio of min", "ratio of median", "goal", ""}}
	for _, m := range measures {
		reference := m.best()
		for i, s := range m.series {
			item, what := m.item, m.what
			if i > 0 {
				item, what = "", ""
			}
			row := []string{item, what, s.name, fmt.Sprint(len(s.values)), quantity(s.least(), m.unit), quantity(s.median(), m.unit), "", "", "", ""}
			if reference != nil && reference.name != s.name {
				row[6], row[7] = ratio(s.least()/reference.least()), ratio(s.median()/reference.median())
			}
			if s.goal > 0 {
				row[8], row[9] = verdict(s, reference, m.unit)
			}
			if s.failures > 0 {
				row[9] = strings.TrimSpace(fmt.Sprintf("%s %d failed", row[9], s.failures))
			}
			rows = append(rows, row)
		}
	}
	return grid(rows)
}

func verdict(s series, reference *series, unit string) (goal, met string) {
	value := s.median()
	switch {
	case s.absolute:
		goal = "≤ " + quantity(s.goal, unit)
	case reference == nil:
		return "≤ " + ratio(s.goal) + " ×", "no peer"
	default:
		goal, value = "≤ "+ratio(s.goal)+" × "+reference.name, value/reference.median()
	}
	switch {
	case math.IsNaN(value):
		return goal, "not measured"
	case value <= s.goal:
		return goal, "met"
	}
	return goal, "**missed**"
}

func quantity(value float64, unit string) string {
	switch {
	case math.IsNaN(value):
		return "–"
	case unit == "MB":
		return fmt.Sprintf("%.1f MB", value)
	case unit == "builds":
		return fmt.Sprintf("%.0f", value)
	case unit == "contexts":
		return fmt.Sprintf("%.3f", value)
	case value < 1:
		return fmt.Sprintf("%.1f ms", value*1000)
	}
	return fmt.Sprintf("%.2f s", value)
}

func ratio(value float64) string {
	if math.IsNaN(value) || math.IsInf(value, 0) {
		return "–"
	}
	return fmt.Sprintf("%.2f", value)
}

// grid lays rows out; the first one is the head.
func grid(rows [][]string) string {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	var b strings.Builder
	for n, row := range rows {
		for i, cell := range row {
			b.WriteString("| " + cell + strings.Repeat(" ", widths[i]-len([]rune(cell))) + " ")
		}
		b.WriteString("|\n")
		if n == 0 {
			for _, width := range widths {
				b.WriteString("|" + strings.Repeat("-", width+2))
			}
			b.WriteString("|\n")
		}
	}
	return b.String()
}

// machine says what was measured on, and with which versions.
func machine(ctx context.Context, l *lab) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s; %s, %d processors, %s of memory, Linux %s; load average when it began: %s\n\n",
		time.Now().UTC().Format("2006-01-02 15:04 UTC"), field("/proc/cpuinfo", "model name"), runtime.NumCPU(),
		field("/proc/meminfo", "MemTotal"), strings.TrimSpace(firstLine("/proc/sys/kernel/osrelease")), firstLine("/proc/loadavg"))
	for _, command := range [][]string{
		{l.builder, "version"}, {l.buildctl, "--version"}, {l.buildx, "version"}, {"buildah", "--version"},
		{"runc", "--version"}, {"git", "--version"}, {"go", "version"},
	} {
		cmd := exec.CommandContext(ctx, command[0], command[1:]...)
		cmd.Env = l.env()
		out, err := cmd.Output()
		line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		if err != nil {
			line = filepath.Base(command[0]) + ": " + err.Error()
		}
		fmt.Fprintf(&b, "- %s\n", strings.ReplaceAll(line, l.root+"/", ""))
	}
	return b.String()
}

func field(file, name string) string {
	data, _ := os.ReadFile(file)
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

func firstLine(file string) string {
	data, _ := os.ReadFile(file)
	line, _, _ := strings.Cut(string(data), "\n")
	return line
}

// writePage puts the report between its two lines in docs/benchmarks.md.
func writePage(root, report string) error {
	path := filepath.Join(root, "docs", "benchmarks.md")
	old, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the page that the report goes into: %w", err)
	}
	head, rest, ok := bytes.Cut(old, []byte(begin))
	_, tail, ok2 := bytes.Cut(rest, []byte(end))
	if !ok || !ok2 {
		return fmt.Errorf("%s has no lines %q and %q to write between", path, begin, end)
	}
	page := string(head) + begin + "\n\n" + report + "\n" + end + string(tail)
	return os.WriteFile(path, []byte(page), 0o644)
}
