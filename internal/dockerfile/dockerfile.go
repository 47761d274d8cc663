// Package dockerfile reads a Dockerfile as BuildKit's own frontend does and says which images
// a build of it stands on, and which of them another image can be put under.
//
// It resolves stages, arguments and platforms; it fetches nothing, changes no byte of the
// Dockerfile, and does not look into images: what an image's ONBUILD triggers add is unknown to it.
// The parser, the lexer and the rules are those of github.com/moby/buildkit
// (frontend/dockerfile/dockerfile2llb), and the tests hold this package against that frontend.
package dockerfile

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"imagebuilder/internal/fault"
)

// File is a parsed Dockerfile. It is not changed after Parse and may be used by several goroutines.
type File struct {
	name   string
	escape rune
	args   []instructions.ArgCommand // before the first FROM
	stages []instructions.Stage
	syntax string
}

// Parse reads a Dockerfile. The name is what errors call it; a Dockerfile that does not parse is an
// Invalid fault as in "Dockerfile:7: unknown instruction: RUNN (did you mean RUN?)".
func Parse(name string, data []byte) (_ *File, err error) {
	f := &File{name: name}
	if len(data) == 0 {
		return nil, fault.New(fault.Invalid, "%s: it is empty", name)
	}
	defer f.catch(&err)
	ast, err := parser.Parse(bytes.NewReader(data))
	if err != nil {
		if line := badDirective(data); line > 0 {
			return nil, f.errorAt(line, "%s", lineError(err).text)
		}
		return nil, f.wrap(err)
	}
	f.escape = ast.EscapeToken
	f.stages, f.args, err = instructions.Parse(ast.AST, nil)
	if err != nil {
		return nil, f.wrap(err)
	}
	if len(f.stages) == 0 {
		return nil, fault.New(fault.Invalid, "%s: no FROM: there is no stage to build", name)
	}
	f.syntax, _, _, _ = parser.DetectSyntax(data)
	return f, nil
}

// catch makes an error of a panic in BuildKit's parser, which has Must functions behind which odd
// heredocs end; a Dockerfile that it cannot read must not end the process.
func (f *File) catch(err *error) {
	if p := recover(); p != nil {
		*err = fault.New(fault.Invalid, "%s: it cannot be parsed: %v", f.name, p)
	}
}

// Syntax is the frontend that a "# syntax=" line asks for, "" without one. It is never fetched:
// a Dockerfile is always built by the frontend that is linked in.
func (f *File) Syntax() string { return f.syntax }

// Stages are the names of the stages, in the order of the file and in lower case, as BuildKit has
// them. A stage without a name is called stage-N, counted from 0, as in BuildKit's progress; no
// build can have it as its target unless it is the last.
func (f *File) Stages() []string {
	names := make([]string, len(f.stages))
	for i, st := range f.stages {
		names[i] = stageName(st, i)
	}
	return names
}

func stageName(st instructions.Stage, index int) string {
	if st.Name != "" {
		return st.Name
	}
	return fmt.Sprintf("stage-%d", index)
}

// listStages names the stages for an error.
func (f *File) listStages() string {
	var names []string
	for _, st := range f.stages {
		if st.Name != "" {
			names = append(names, fmt.Sprintf("%s (line %d)", st.Name, firstLine(st.Location)))
		}
	}
	if len(names) == 0 {
		return "no stage of the Dockerfile has a name"
	}
	return "the Dockerfile has: " + strings.Join(names, ", ")
}

// errorAt is an Invalid fault at a line of the file.
func (f *File) errorAt(line int, format string, args ...any) *fault.Error {
	return fault.New(fault.Invalid, "%s:%d: "+format, append([]any{f.name, line}, args...)...)
}

// wrap puts name and line in front of an error of BuildKit's parser.
func (f *File) wrap(err error) *fault.Error {
	at := lineError(err)
	switch {
	case at.line > 0:
		return f.errorAt(at.line, "%s", at.text)
	case at.located: // the parser counts from 0 where it knows nothing better
		return f.errorAt(1, "%s", at.text)
	default:
		return fault.New(fault.Invalid, "%s: %s", f.name, at.text)
	}
}

type located struct {
	line    int // 1 is the first
	located bool
	text    string
}

// parserPrefix is what BuildKit puts before a message to say the line, which we say in our own way.
var parserPrefix = regexp.MustCompile(`^dockerfile parse error on line \d+: `)

func lineError(err error) located {
	at := located{text: parserPrefix.ReplaceAllString(err.Error(), "")}
	var le *parser.LocationError
	if errors.As(err, &le) {
		at.located = true
		if len(le.Locations) > 0 && len(le.Locations[0]) > 0 {
			at.line = le.Locations[0][0].Start.Line
		}
	}
	if strings.HasPrefix(at.text, "dockerfile line greater than") {
		at.line++ // it is the one that was not read
	}
	if strings.HasPrefix(at.text, "no build stage in current context") {
		at.text = "an instruction before the first FROM; only ARG may stand there"
	}
	return at
}

// badDirective is the line of a parser directive that is wrong (BuildKit reports the one before), or 0.
func badDirective(data []byte) int {
	var p parser.DirectiveParser
	for i, line := range bytes.Split(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), []byte("\n")) {
		d, err := p.ParseLine(line)
		switch {
		case err != nil:
			return i + 1
		case d == nil:
			return 0
		case d.Name == "escape" && d.Value != "`" && d.Value != `\`:
			return i + 1
		}
	}
	return 0
}
