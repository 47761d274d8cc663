package dockerfile

import (
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// reach marks what the target needs. ONBUILD of a stage adds commands to those that stand on it,
// and with them stages and images that are needed too.
func (p *plan) reach() error {
	for more := true; more; {
		more = false
		p.target.mark(map[*stage]bool{})
		for _, s := range p.stages {
			s.late = s.late || s.use != UseFrom && !s.reached
		}
		for _, s := range slices.Clone(p.stages) {
			if !s.reached || s.base == nil || s.triggered {
				continue
			}
			s.triggered = true
			cmds, err := p.triggers(s.base)
			if err != nil {
				return err
			}
			if err := p.connect(s, cmds); err != nil {
				return err
			}
			more = more || len(cmds) > 0
		}
	}
	return p.refuseReferences()
}

func (s *stage) mark(seen map[*stage]bool) {
	if seen[s] {
		return
	}
	seen[s], s.reached = true, true
	if s.base != nil {
		s.base.mark(seen)
	}
	for _, c := range s.commands {
		for _, src := range c.sources {
			src.mark(seen)
		}
	}
}

// triggers parses the ONBUILD instructions of a stage.
func (p *plan) triggers(base *stage) (cmds []instructions.Command, err error) {
	defer p.file.catch(&err)
	for _, c := range base.commands {
		on, ok := c.Command.(*instructions.OnbuildCommand)
		if !ok {
			continue
		}
		line := firstLine(on.Location())
		ast, err := parser.Parse(strings.NewReader(on.Expression))
		if err != nil || len(ast.AST.Children) != 1 {
			return nil, p.file.errorAt(line, "ONBUILD %s: it is not one instruction", on.Expression)
		}
		node := ast.AST.Children[0]
		node.StartLine, node.EndLine = line, line
		cmd, err := instructions.ParseCommand(node)
		if err != nil {
			return nil, p.file.wrap(err)
		}
		cmds = append(cmds, cmd)
	}
	return cmds, nil
}

// refuseCircles finds stages that take files from each other.
func (p *plan) refuseCircles() error {
	visited, path := map[*stage]bool{}, map[*stage]bool{}
	var visit func(*stage) error
	visit = func(s *stage) error {
		if visited[s] {
			return nil
		}
		visited[s], path[s] = true, true
		for _, c := range s.commands {
			for _, src := range c.sources {
				if path[src] {
					return p.file.errorAt(firstLine(c.Location()), "%s takes files from %s, which needs %s itself", s.title(), src.title(), s.title())
				}
				if err := visit(src); err != nil {
					return err
				}
			}
		}
		delete(path, s)
		return nil
	}
	for _, s := range slices.Clone(p.stages) {
		if err := visit(s); err != nil {
			return err
		}
	}
	return nil
}

// refuseOrder finds commands that take files from a stage that stands below them.
func (p *plan) refuseOrder() error {
	for _, s := range p.stages {
		if !s.reached || s.ready {
			continue
		}
		s.ready = true
		for _, c := range s.commands {
			for i, src := range c.sources {
				if c.needed[i] && !src.ready {
					return p.file.errorAt(firstLine(c.Location()), "%s takes files from %s, which stands below it (line %d)", s.title(), src.title(), src.line)
				}
			}
		}
	}
	return nil
}
