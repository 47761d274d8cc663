package dockerfile

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/distribution/reference"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"imagebuilder/internal/fault"
)

// Override puts another image in the place of one that the Dockerfile names.
type Override struct {
	Base   Base              // what is replaced; overrides with the same Base.Key have the same With
	With   string            // the new image, as it was given
	Target ocispecs.Platform // the platform of the query that needs it; Base.Platform is what With has to have
}

// Override decides what is put under what for one query; see Overrides.
func (f *File) Override(q Query, base string, bases map[string]string) ([]Override, error) {
	return f.Overrides([]Query{q}, base, bases)
}

// Overrides decides what is put under what for all platforms of a variant at once: each query is one
// platform of it. The base goes in the place of the image that the first FROM of the file names,
// wherever that is used; each of bases goes in the place of the image that its key names, by any
// spelling of the reference or as the Dockerfile writes it. The overrides stand query by query, each
// in the order of the file; a name counts as used when one of the platforms uses it.
//
// What would have no effect, or another one than asked for, is an Invalid fault with a problem for
// each entry; pointers are relative to the image of the document: /base, /bases/alpine.
func (f *File) Overrides(queries []Query, base string, bases map[string]string) ([]Override, error) {
	if len(queries) == 0 {
		return nil, fault.New(fault.Internal, "replace bases of %s: no platform is given", f.name)
	}
	o := overrides{file: f, with: map[string]entry{}}
	for _, q := range queries {
		p, err := f.plan(q)
		if err != nil {
			return nil, err
		}
		o.plans = append(o.plans, p)
	}
	for _, name := range slices.Sorted(maps.Keys(bases)) {
		o.addNamed(name, bases[name])
	}
	if base != "" {
		o.addFirst(base)
	}
	if len(o.problems) > 0 {
		return nil, fault.InvalidInput(f.name+": a base image cannot be replaced as asked", o.problems)
	}
	return o.list(), nil
}

// overrides gathers what replaces what.
type overrides struct {
	file     *File
	plans    []*plan
	with     map[string]entry // by full reference of the image that is replaced
	problems []fault.Problem
}

// entry is a wish of the document.
type entry struct {
	pointer string
	with    string
}

// addFirst is for base: it replaces what the first FROM of the file names.
func (o *overrides) addFirst(with string) {
	const pointer = "/base"
	if !o.checkNew(pointer, with) {
		return
	}
	var reached bool
	var first *stage
	for _, p := range o.plans {
		first = p.stages[0]
		if first.from == scratch {
			o.refuse(pointer, o.namesExternal(), "the first FROM (line %d) is scratch, which is no image and cannot be replaced", first.line)
			return
		}
		for _, s := range p.images(isReached) {
			if s.named.String() == first.named.String() {
				reached = true
				o.add(entry{pointer, with}, s)
			}
		}
	}
	if !reached {
		o.refuse(pointer, "choose another stage, or name the image to replace in bases; "+o.namesReached(),
			"the first FROM names %s (line %d), which %s does not need: the base would have no effect", first.from, first.line, o.plans[0].target.title())
	}
}

// addNamed is for one entry of bases.
func (o *overrides) addNamed(name, with string) {
	pointer := "/bases/" + fault.EscapePointer(name)
	if name == scratch {
		o.refuse(pointer, o.namesExternal(), "scratch is no image and cannot be replaced")
		return
	}
	if !o.checkNew(pointer, with) {
		return
	}
	var unreached *stage
	var reached bool
	for _, p := range o.plans {
		for _, s := range p.images(func(s *stage) bool { return s.is(name) }) {
			if s.reached {
				reached = true
				o.add(entry{pointer, with}, s)
			} else if unreached == nil {
				unreached = s
			}
		}
	}
	switch {
	case reached:
	case unreached != nil:
		o.refuse(pointer, o.namesReached(), "%s (line %d) is not needed by %s: replacing it would have no effect", name, unreached.line, o.plans[0].target.title())
	case o.stageNamed(name) != nil:
		s := o.stageNamed(name)
		o.refuse(pointer, o.namesExternal(), "%s is a stage of the Dockerfile (line %d, standing on %s), not an image", name, s.line, s.root().from)
	default:
		o.refuse(pointer, o.namesExternal(), "the Dockerfile does not use the image %s", name)
	}
}

// is says whether a name of the document means this image.
func (s *stage) is(name string) bool {
	if name == s.raw || name == s.from {
		return true
	}
	named, err := reference.ParseNormalizedNamed(name)
	return err == nil && reference.TagNameOnly(named).String() == s.named.String()
}

// add replaces one image, unless something else replaces it or BuildKit would replace a stage.
func (o *overrides) add(e entry, s *stage) {
	if s.late {
		// BuildKit 0.33 has settled on the image before it looks at ONBUILD, and does not look it up again.
		o.refuse(e.pointer, "give the image a stage of its own, and take the files from that",
			"%s (line %d) is needed only through an ONBUILD of the Dockerfile, where BuildKit replaces nothing", s.from, s.line)
	}
	ref := s.named.String()
	if old, ok := o.with[ref]; ok {
		if !sameImage(old.with, e.with) {
			o.refuse(e.pointer, "say it once", "%s (line %d) is replaced by %s here and by %s in %s", s.from, s.line, e.with, old.with, old.pointer)
		}
		return
	}
	o.with[ref] = e
	key := contextKey(s.named)
	if neverNamed(key) {
		return // a stage called so is never looked up
	}
	if other := o.stageNamed(key); other != nil {
		o.refuse(e.pointer, fmt.Sprintf("give the stage another name than %s, or the image a tag other than latest", other.alias),
			"%s (line %d) cannot be replaced, because stage %s (line %d) has the same name: BuildKit would replace the whole stage and leave out its instructions", s.from, s.line, other.alias, other.line)
	}
}

// checkNew checks what is to be put somewhere.
func (o *overrides) checkNew(pointer, with string) bool {
	if with == scratch {
		o.refuse(pointer, "to build on nothing, the Dockerfile itself has to say FROM scratch", "scratch cannot be put under a Dockerfile: it is no image")
		return false
	}
	if _, err := reference.ParseNormalizedNamed(with); err != nil {
		hint := ""
		if strings.Contains(with, ": ") { // {golang:1.13: golang:1.22} is read as golang → "1.13: golang:1.22"
			hint = "in YAML, put a name with a tag in quotes where it is a key inside { }"
		}
		o.refuse(pointer, hint, "%q is not an image reference: %s", with, err)
		return false
	}
	return true
}

func (o *overrides) stageNamed(name string) *stage {
	return o.plans[0].byName[strings.ToLower(name)]
}

// namesExternal lists what the Dockerfile uses; namesReached what the target needs of it.
func (o *overrides) namesExternal() string {
	return o.names("the Dockerfile uses ", func(*stage) bool { return true })
}

func (o *overrides) namesReached() string {
	return o.names(o.plans[0].target.title()+" needs ", isReached)
}

func (o *overrides) names(before string, keep func(*stage) bool) string {
	var all []*stage
	for _, p := range o.plans {
		all = append(all, p.images(keep)...)
	}
	if len(all) == 0 {
		return before + "no image"
	}
	return before + describe(all)
}

func (o *overrides) refuse(pointer, hint, format string, args ...any) {
	problem := fault.Problem{Pointer: pointer, Message: fmt.Sprintf(format, args...), Hint: hint}
	same := func(have fault.Problem) bool { return have.Pointer == pointer && have.Message == problem.Message }
	if !slices.ContainsFunc(o.problems, same) { // each platform and each use would say it again
		o.problems = append(o.problems, problem)
	}
}

// list is what was gathered, as overrides.
func (o *overrides) list() []Override {
	var list []Override
	for _, p := range o.plans {
		for _, b := range p.bases() {
			if e, ok := o.with[b.Ref]; ok {
				list = append(list, Override{Base: b, With: e.with, Target: p.query.Platform})
			}
		}
	}
	return list
}

func sameImage(a, b string) bool {
	x, errX := reference.ParseNormalizedNamed(a)
	y, errY := reference.ParseNormalizedNamed(b)
	return errX == nil && errY == nil && reference.TagNameOnly(x).String() == reference.TagNameOnly(y).String()
}
