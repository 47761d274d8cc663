package dockerfile

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/util/suggest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"imagebuilder/internal/fault"
)

const scratch = "scratch" // no image: the empty file system

// stage is a stage of the file for one query, or an image that a command takes files from, which
// BuildKit treats as a stage without commands.
type stage struct {
	name      string // as Stages has it; for an image of a command the stage of the command
	alias     string // "" without AS
	use       Use
	line      int
	raw       string // base as it is written
	from      string // raw with arguments expanded
	empty     []string
	named     reference.Named    // nil when the base is another stage or scratch
	platform  *ocispecs.Platform // as --platform says; nil without
	base      *stage             // stage that it continues
	commands  []command
	reached   bool
	ready     bool // nothing of it is left to build when a command asks for it
	triggered bool // ONBUILD of its base was looked at
	late      bool // an image of a command that an ONBUILD was the first to need
}

// command is an instruction and the stages it takes files from.
type command struct {
	instructions.Command
	sources []*stage
	needed  []bool // whether the source has to stand before the command
}

// plan is a Dockerfile resolved for one query.
type plan struct {
	file   *File
	query  Query
	stages []*stage // of the file, then images of commands
	number []*stage // what COPY --from=N finds: stages, then every mention of an image by a command
	byName map[string]*stage
	target *stage
}

// plan resolves stages, in the order and with the look-ups of dockerfile2llb.
func (f *File) plan(q Query) (*plan, error) {
	q, err := q.normalized()
	if err != nil {
		return nil, err
	}
	env, err := f.globals(q)
	if err != nil {
		return nil, err
	}
	p := &plan{file: f, query: q, byName: map[string]*stage{}}
	for i, st := range f.stages {
		if err := p.addStage(i, st, env); err != nil {
			return nil, err
		}
	}
	if p.target, err = p.find(q.Stage); err != nil {
		return nil, err
	}
	for i := range f.stages {
		if err := p.connect(p.stages[i], f.stages[i].Commands); err != nil {
			return nil, err
		}
	}
	if err := p.refuseCircles(); err != nil {
		return nil, err
	}
	if err := p.refuseReferences(); err != nil {
		return nil, err
	}
	if err := p.reach(); err != nil {
		return nil, err
	}
	if err := p.refuseOrder(); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *plan) addStage(index int, st instructions.Stage, env arguments) error {
	line := firstLine(st.Location)
	from, err := p.file.expand(st.BaseName, env)
	if err != nil {
		return p.file.errorAt(line, "FROM %s: %w", st.BaseName, err)
	}
	if from.text == "" {
		return p.file.blame(p.file.errorAt(line, "FROM %s: nothing is left of it%s", st.BaseName, from.because()), from.empty)
	}
	s := &stage{name: stageName(st, index), alias: st.Name, use: UseFrom, line: line, raw: st.BaseName, from: from.text, empty: from.empty}
	if st.Platform != "" {
		text, err := p.file.expand(st.Platform, env)
		if err != nil {
			return p.file.errorAt(line, "--platform=%s: %w", st.Platform, err)
		}
		if text.text == "" {
			return p.file.blame(p.file.errorAt(line, "--platform=%s: nothing is left of it%s", st.Platform, text.because()), text.empty)
		}
		platform, err := platforms.Parse(text.text)
		if err != nil {
			return p.file.blame(p.file.errorAt(line, "--platform=%s: %q is no platform such as linux/arm64", st.Platform, text.text), text.empty)
		}
		s.platform = &platform
	}
	if st.Name != "" {
		// BuildKit looks every stage up among the named contexts, whose keys are references.
		if _, err := reference.ParseNormalizedNamed(st.Name); err != nil && !neverNamed(st.Name) {
			return p.file.errorAt(line, "AS %s: BuildKit takes no stage of that name: %w", st.Name, err)
		}
	}
	p.add(s)
	return nil
}

// add registers a stage; its base is looked up before its own name is known: FROM a AS a is an image.
func (p *plan) add(s *stage) {
	p.stages = append(p.stages, s)
	if s.use == UseFrom {
		p.number = append(p.number, s)
	}
	s.base = p.byName[s.from]
	if s.alias != "" {
		p.byName[s.alias] = s
	}
}

// find gives the target stage.
func (p *plan) find(name string) (*stage, error) {
	if name == "" {
		return p.stages[len(p.stages)-1], nil
	}
	if s, ok := p.byName[strings.ToLower(name)]; ok {
		return s, nil
	}
	names := p.file.Stages()
	problem := fault.Problem{Pointer: "/stage", Message: "there is no stage " + name + "; " + p.file.listStages()}
	if n, err := strconv.Atoi(name); err == nil && n >= 0 && n < len(names) {
		problem.Hint = fmt.Sprintf("a stage is chosen by its name: give number %d one with AS (line %d)", n, p.stages[n].line)
		if alias := p.stages[n].alias; alias != "" {
			problem.Hint = fmt.Sprintf("a stage is chosen by its name: number %d is %s", n, alias)
		}
	} else if near, ok := suggest.Search(strings.ToLower(name), names, true); ok {
		problem.Hint = "did you mean " + near + "?"
	}
	return nil, fault.InvalidInput(p.file.name+": the target stage cannot be built", []fault.Problem{problem})
}

// connect finds out where a stage's commands take files from.
func (p *plan) connect(s *stage, cmds []instructions.Command) error {
	found := make([]command, len(cmds))
	for i, ic := range cmds {
		cmd, err := p.command(s, ic)
		if err != nil {
			return err
		}
		found[i] = cmd
		for _, src := range cmd.sources {
			if src.use != UseFrom {
				p.number = append(p.number, src)
			}
		}
	}
	s.commands = append(found, s.commands...)
	return nil
}

func (p *plan) command(s *stage, ic instructions.Command) (command, error) {
	cmd := command{Command: ic}
	line := firstLine(ic.Location())
	switch c := ic.(type) {
	case *instructions.CopyCommand:
		if c.From == "" {
			break
		}
		src, err := p.copySource(s, c.From, line)
		if err != nil {
			return cmd, err
		}
		cmd.sources, cmd.needed = []*stage{src}, []bool{true}
	case *instructions.RunCommand:
		for _, m := range instructions.GetMounts(c) {
			from := m.From
			if from == "" {
				from = scratch // so does BuildKit: a stage called scratch is then a source
			}
			src, ok := p.byName[strings.ToLower(from)]
			if !ok {
				src = p.image(s, UseMount, from, line)
			}
			cmd.sources = append(cmd.sources, src)
			cmd.needed = append(cmd.needed, m.From != "")
		}
	}
	return cmd, nil
}

func (p *plan) copySource(s *stage, from string, line int) (*stage, error) {
	res, err := p.file.expand(from, arguments{})
	if err != nil {
		return nil, p.file.errorAt(line, "COPY --from=%s: %w", from, err)
	}
	if res.text != from {
		return nil, p.file.errorAt(line, "COPY --from=%s: no arguments are expanded here", from).
			WithHint("write FROM %s AS name as a stage of its own, and COPY --from=name", from)
	}
	index, err := strconv.Atoi(from)
	if err != nil {
		if src, ok := p.byName[strings.ToLower(from)]; ok {
			return src, nil
		}
		return p.image(s, UseCopy, from, line), nil
	}
	if index < 0 || index >= len(p.number) {
		return nil, p.file.errorAt(line, "COPY --from=%s: there is no stage of that number", from)
	}
	return p.number[index], nil
}

// image registers an image that a command takes files from.
func (p *plan) image(s *stage, use Use, from string, line int) *stage {
	img := &stage{name: s.name, use: use, line: line, raw: from, from: from, ready: true}
	p.add(img)
	return img
}

// refuseReferences checks every image's name, used or not, as BuildKit does.
func (p *plan) refuseReferences() error {
	for _, s := range p.stages {
		if err := p.parse(s); err != nil {
			return err
		}
	}
	return nil
}

func (p *plan) parse(s *stage) error {
	if s.base != nil || s.from == scratch || s.named != nil {
		return nil
	}
	named, err := reference.ParseNormalizedNamed(s.from)
	if err == nil {
		s.named = reference.TagNameOnly(named)
		return nil
	}
	written := s.use.before() + s.raw
	if s.from != s.raw {
		written += " (" + s.from + ")"
	}
	e := p.file.blame(p.file.errorAt(s.line, "%s: %w", written, err), s.empty)
	if _, ok := p.byName[strings.ToLower(s.from)]; ok && e.Hint == "" {
		e = e.WithHint("FROM finds a stage only by its name in lower case: %s", strings.ToLower(s.from))
	}
	return e
}

// firstRun is the line of the stage's first RUN, or 0.
func (s *stage) firstRun() int {
	for _, c := range s.commands {
		if _, ok := c.Command.(*instructions.RunCommand); ok {
			return firstLine(c.Location())
		}
	}
	return 0
}

// title is the stage's name in a sentence.
func (s *stage) title() string {
	if s.alias != "" {
		return "stage " + s.alias
	}
	return s.name
}

// root is the stage whose FROM names what s stands on in the end.
func (s *stage) root() *stage {
	for s.base != nil {
		s = s.base
	}
	return s
}

func firstLine(loc []parser.Range) int {
	if len(loc) == 0 {
		return 0
	}
	return loc[0].Start.Line
}

// neverNamed says whether BuildKit leaves a name out of its look-up of named contexts.
func neverNamed(name string) bool {
	return strings.EqualFold(name, scratch) || strings.EqualFold(name, "context")
}
