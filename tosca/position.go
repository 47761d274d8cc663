package tosca

import (
	"cmp"
	"fmt"
	"slices"

	"imagebuilder/internal/fault"
)

// Position is a place in a file. Line and column count from 1, the column in characters.
type Position struct {
	File         string
	Line, Column int
}

// String is the place as compilers write it: file:line:column.
func (p Position) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// maxProblems is how many problems are told at once; nobody reads more.
const maxProblems = 100

// problem is one thing that is wrong with a template or its inputs.
type problem struct {
	at            Position
	message, hint string
}

// problems collects what is wrong, so that all of it is told at once.
type problems struct {
	list []problem
	seen map[problem]bool
}

// add notes a problem, once.
func (p *problems) add(at Position, format string, args ...any) { p.hint(at, "", format, args...) }

// hint notes a problem with what to do about it.
func (p *problems) hint(at Position, hint, format string, args ...any) {
	what := problem{at, fmt.Sprintf(format, args...), hint}
	if p.seen == nil {
		p.seen = map[problem]bool{}
	}
	if !p.seen[what] {
		p.seen[what] = true
		p.list = append(p.list, what)
	}
}

// err is the error for what was collected, nil for nothing. The problems stand in the order of the files.
func (p *problems) err(action, file string) error {
	if len(p.list) == 0 {
		return nil
	}
	slices.SortStableFunc(p.list, func(a, b problem) int {
		// the file that was asked for comes first, the others by name
		return cmp.Or(rank(a.at.File, file)-rank(b.at.File, file), cmp.Compare(a.at.File, b.at.File),
			cmp.Compare(a.at.Line, b.at.Line), cmp.Compare(a.at.Column, b.at.Column))
	})
	var list []fault.Problem
	for _, one := range p.list[:min(len(p.list), maxProblems)] {
		list = append(list, fault.Problem{Message: one.at.String() + ": " + one.message, Hint: one.hint})
	}
	if more := len(p.list) - maxProblems; more > 0 {
		list = append(list, fault.Problem{Message: fmt.Sprintf("%s: and %d more", file, more)})
	}
	count := "1 problem"
	if len(p.list) > 1 {
		count = fmt.Sprintf("%d problems", len(p.list))
	}
	return fault.InvalidInput(fmt.Sprintf("%s %s: %s", action, file, count), list)
}

func rank(file, first string) int {
	if file == first {
		return 0
	}
	return 1
}
