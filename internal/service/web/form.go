package web

import (
	"net/url"
	"slices"
	"strconv"
	"strings"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/fault"
)

const (
	// maxImages is how many variants the form takes; documents may have more, and the service has a limit of its own.
	maxImages = 32

	sourceKind = "source_kind" // the name of the choice between the three
	kindGit    = "git_repo"
	kindFile   = "dockerfile"
	kindBoth   = "build_context" // a Dockerfile by URL, with a context
)

// input is how a field of the form is filled in.
type input string

const (
	inputText   input = "text"
	inputURL    input = "url"
	inputNumber input = "number"
	inputSecret input = "password"
	inputPEM    input = "pem"   // a text of several lines
	inputPairs  input = "pairs" // NAME=VALUE, one on each line
	inputHidden input = "hidden pairs"
	inputList   input = "list" // checkboxes and a text of what else
	inputCheck  input = "checkbox"
	inputSelect input = "select"
)

// field is one field of the form. Its name is the JSON pointer of what it sets, so that problems find it.
type field struct {
	Pointer, Label, Hint, Example string
	Input                         input
	Must, Wide                    bool
	Options                       []option
	Value                         string // "" for secrets, which are not sent back
	Checked                       bool
	Errors                        []fault.Problem
	Retype                        bool // it is a secret that was typed in, and has to be again
}

// option is one choice of a field.
type option struct {
	Value, Label string
	Checked      bool
}

// Secret tells whether what is typed in is not to be shown again.
func (f field) Secret() bool { return f.Input == inputSecret || f.Input == inputHidden }

// ID is the field's id on the page.
func (f field) ID() string { return fieldID(f.Pointer) }

func fieldID(pointer string) string {
	return "field" + strings.Map(func(r rune) rune {
		if (r >= 'a' && r <= 'z') || (r >= '0' && r <= '9') || r == '_' {
			return r
		}
		return '-'
	}, pointer)
}

func gitFields() []field {
	const at = "/source/git_repo"
	return append(repositoryFields(at, true),
		field{Pointer: at + "/dockerfile", Label: "Dockerfile", Hint: "Path from the repository's root.", Example: "Dockerfile"},
		field{Pointer: at + "/workdir", Label: "Build context", Hint: "Path of the folder that COPY sees.", Example: "."},
	)
}

func repositoryFields(at string, must bool) []field {
	return []field{
		{Pointer: at + "/url", Label: "Repository URL", Input: inputURL, Must: must, Wide: true, Example: "https://git.example.com/shop/web.git"},
		{Pointer: at + "/version", Label: "Version", Hint: "Branch, tag, commit, or HEAD.", Example: "HEAD"},
		{Pointer: at + "/username", Label: "User name", Example: "deploy"},
		{Pointer: at + "/password", Label: "Password or token", Input: inputSecret},
	}
}

func dockerfileFields() []field {
	const at = "/source/dockerfile"
	return []field{
		{Pointer: at + "/url", Label: "Dockerfile URL", Input: inputURL, Must: true, Wide: true, Example: "https://files.example.com/web/Dockerfile"},
		{Pointer: at + "/username", Label: "User name", Example: "deploy"},
		{Pointer: at + "/password", Label: "Password or token", Input: inputSecret},
	}
}

func contextFields() []field {
	const at = "/source/build_context"
	return append(repositoryFields(at, true),
		field{Pointer: at + "/subdir", Label: "Subfolder", Hint: "Where the build runs, from the context's root.", Example: "."})
}

func registryFields() []field {
	const at = "/target/registry"
	return []field{
		{Pointer: at + "/url", Label: "Registry", Must: true, Wide: true, Hint: "Host, host:port, or docker.io.", Example: "registry.example.com"},
		{Pointer: at + "/username", Label: "User name", Example: "robot"},
		{Pointer: at + "/password", Label: "Password or token", Input: inputSecret},
		{Pointer: at + "/ca_cert", Label: "CA certificate", Input: inputPEM, Wide: true, Hint: "PEM, where no public authority vouches for the registry."},
		{Pointer: at + "/insecure", Label: "Insecure: plain http, or any certificate", Input: inputCheck, Wide: true},
	}
}

// platforms are those that the form offers; any other can be typed.
func platforms() []string {
	return []string{"linux/amd64", "linux/arm64", "linux/arm/v7", "linux/386", "linux/ppc64le", "linux/s390x", "linux/riscv64"}
}

func imageFields(i int) (first, more []field) {
	at := "/target/images/" + strconv.Itoa(i)
	var offered []option
	for _, p := range platforms() {
		offered = append(offered, option{Value: p, Label: p})
	}
	return []field{
			{Pointer: at + "/image", Label: "Image", Must: true, Hint: "Repository inside the registry.", Example: "shop/web"},
			{Pointer: at + "/tag", Label: "Tag", Must: true, Example: "v1.4.2"},
			{Pointer: at + "/base", Label: "Base image", Hint: "In place of the one that the first FROM names.", Example: "python:3.12-alpine"},
			{Pointer: at + "/platforms", Label: "Platforms", Input: inputList, Wide: true, Options: offered, Hint: "None means linux/amd64."},
		}, []field{
			{Pointer: at + "/stage", Label: "Stage", Hint: "To build; the last one if empty.", Example: "runtime"},
			{Pointer: at + "/bases", Label: "Bases", Input: inputPairs, Hint: "NAME=IMAGE, one on each line: the name that the Dockerfile has, and what takes its place."},
			{Pointer: at + "/build_args", Label: "Build arguments", Input: inputPairs, Hint: "NAME=VALUE, one on each line. No place for secrets."},
			{Pointer: at + "/labels", Label: "Image labels", Input: inputPairs, Hint: "NAME=VALUE, one on each line."},
		}
}

func optionFields() []field {
	const at = "/options"
	choices := func(values ...string) []option {
		out := []option{{Label: "default"}}
		for _, v := range values {
			out = append(out, option{Value: v, Label: v})
		}
		return out
	}
	return []field{
		{Pointer: at + "/build_args", Label: "Build arguments", Input: inputPairs, Hint: "NAME=VALUE, one on each line, for all images. No place for secrets."},
		{Pointer: at + "/labels", Label: "Image labels", Input: inputPairs, Hint: "NAME=VALUE, one on each line, for all images."},
		{Pointer: at + "/secrets", Label: "Build secrets", Input: inputHidden, Wide: true, Hint: "ID=VALUE, one on each line, for RUN --mount=type=secret,id=ID."},
		{Pointer: at + "/timeout", Label: "Timeout", Hint: "As in 30m or 1h30m.", Example: "30m"},
		{Pointer: at + "/source_date_epoch", Label: "Source date epoch", Hint: "commit, a time, or seconds since 1970.", Example: "commit"},
		{Pointer: at + "/compression", Label: "Compression", Input: inputSelect, Options: choices("gzip", "zstd")},
		{Pointer: at + "/compression_level", Label: "Compression level", Input: inputNumber, Example: "3"},
		{Pointer: at + "/cache/mode", Label: "Cache mode", Input: inputSelect, Options: choices("registry", "inline", "off")},
		{Pointer: at + "/cache/ref", Label: "Cache repository", Hint: "That of the image if empty.", Example: "registry.example.com/shop/cache"},
		{Pointer: at + "/cache/scope", Label: "Cache scope", Hint: "The version of the source if empty.", Example: "main"},
		{Pointer: at + "/no_cache", Label: "No cache: run every step anew", Input: inputCheck, Wide: true},
	}
}

// requestFields are about the build itself and not part of the document.
func requestFields(groups []string) []field {
	out := []field{
		{Pointer: "/labels", Label: "Build labels", Input: inputPairs, Hint: "NAME=VALUE, one on each line: to find the build by."},
		{Pointer: "/priority", Label: "Priority", Input: inputSelect, Hint: "Among your own builds.", Options: []option{
			{Value: "", Label: "2 – usual"}, {Value: "1", Label: "1 – last"}, {Value: "3", Label: "3 – sooner"}, {Value: "4", Label: "4 – first"},
		}},
		{Pointer: "/queue_ttl", Label: "Longest time in the queue", Hint: "As in 30m or 2h.", Example: "1h"},
	}
	if len(groups) > 1 {
		choice := field{Pointer: "/group", Label: "Group", Input: inputSelect, Hint: "Who else sees the build.", Options: []option{{Label: "nobody else"}}}
		for _, g := range groups {
			choice.Options = append(choice.Options, option{Value: g, Label: g})
		}
		out = append(out, choice)
	}
	return out
}

// fill puts what was typed and what is wrong with it into fields.
func fill(fields []field, typed url.Values, problems *problems) []field {
	for i := range fields {
		f := &fields[i]
		values := typed[f.Pointer]
		f.Errors = problems.of(f.Pointer)
		switch f.Input {
		case inputSecret, inputHidden:
			f.Retype = typed.Get(f.Pointer) != ""
		case inputCheck:
			f.Checked = len(values) > 0
		case inputSelect:
			for j := range f.Options {
				f.Options[j].Checked = f.Options[j].Value == typed.Get(f.Pointer)
			}
		case inputList:
			var others []string
			for _, v := range listed(values) {
				at := slices.IndexFunc(f.Options, func(o option) bool { return o.Value == v })
				if at < 0 {
					others = append(others, v)
					continue
				}
				f.Options[at].Checked = true
			}
			f.Value = strings.Join(others, " ")
		default:
			f.Value = buildparams.MaskURL(typed.Get(f.Pointer)) // a password in it is a mistake, and is not repeated
		}
	}
	return fields
}

// problems are handed out to the fields that they are about.
type problems struct {
	all   []fault.Problem
	taken []bool
}

func newProblems(all []fault.Problem) *problems {
	return &problems{all: all, taken: make([]bool, len(all))}
}

// of gives the problems with a value or anything in it.
func (p *problems) of(pointer string) []fault.Problem {
	var out []fault.Problem
	for i, problem := range p.all {
		if problem.Pointer == pointer || strings.HasPrefix(problem.Pointer, pointer+"/") {
			out = append(out, problem)
			p.taken[i] = true
		}
	}
	return out
}

// link is a problem with the field that it is about.
type link struct {
	fault.Problem
	Field string // its id on the page; "" when there is none
	Line  int    // of the document, where that is known
}
