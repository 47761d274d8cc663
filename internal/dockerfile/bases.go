package dockerfile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Use is how a Dockerfile uses an image.
type Use string

// The uses of an image.
const (
	UseFrom  Use = "FROM"
	UseCopy  Use = "COPY --from"
	UseMount Use = "RUN --mount"
)

// before is what stands in front of the image's name in the Dockerfile.
func (u Use) before() string {
	switch u {
	case UseCopy:
		return "COPY --from="
	case UseMount:
		return "RUN --mount=from="
	default:
		return "FROM "
	}
}

// Base is an external image that a build needs, for one platform.
type Base struct {
	From     string            // as the Dockerfile names it first, arguments expanded, as in alpine:3.19
	Ref      string            // full reference, as in docker.io/library/alpine:3.19; with the tag latest where there is neither tag nor digest
	Key      string            // what BuildKit calls it among named contexts, without "context:"
	Platform ocispecs.Platform // the platform it is used for, normalized
	Lines    []int             // where it is used, in the order of the file
	Stages   []string          // the stage that uses it, for each of Lines; names as Stages has them
	Use      Use               // FROM where any of the uses is one, otherwise the first use
	Under    bool              // the target stage stands on it: the image's first layers are its layers
	Named    bool              // a named context with Key takes its place wherever it is used, and nothing else's
}

// Bases lists the external images that building the stage for the platform needs, in the order of
// the file. An image that is used for two platforms (a builder on the build platform) stands there
// twice. Images of stages that the target does not reach are not listed. What is wrong with the
// Dockerfile, so that BuildKit could not resolve its stages, is an Invalid fault with file and line.
func (f *File) Bases(q Query) ([]Base, error) {
	p, err := f.plan(q)
	if err != nil {
		return nil, err
	}
	return p.bases(), nil
}

// images are the stages whose base is an image, in the order of the file.
func (p *plan) images(keep func(*stage) bool) []*stage {
	var found []*stage
	for _, s := range p.stages {
		if s.named != nil && keep(s) {
			found = append(found, s)
		}
	}
	slices.SortStableFunc(found, func(a, b *stage) int { return cmp.Compare(a.line, b.line) })
	return found
}

func isReached(s *stage) bool { return s.reached }

func (p *plan) bases() []Base {
	var list []Base
	at := map[string]int{}
	under := p.target.root()
	for _, s := range p.images(isReached) {
		platform := p.platformOf(s)
		id := s.named.String() + " " + platforms.FormatAll(platform)
		i, ok := at[id]
		if !ok {
			i = len(list)
			at[id] = i
			list = append(list, Base{From: s.from, Ref: s.named.String(), Key: contextKey(s.named), Platform: platform, Use: s.use, Named: true})
		}
		b := &list[i]
		b.Lines = append(b.Lines, s.line)
		b.Stages = append(b.Stages, s.name)
		b.Under = b.Under || s == under
		b.Named = b.Named && !s.late && (neverNamed(b.Key) || p.byName[strings.ToLower(b.Key)] == nil)
		if s.use == UseFrom {
			b.Use = UseFrom
		}
	}
	return list
}

// platformOf is the platform that a stage is built for: that of the stage it continues, whatever its
// own --platform says; scratch and images of commands are always the target's.
func (p *plan) platformOf(s *stage) ocispecs.Platform {
	s = s.root()
	if s.platform == nil || s.named == nil {
		return p.query.Platform
	}
	return platforms.Normalize(*s.platform)
}

// contextKey is the named context's key that BuildKit looks up for an image; no other spelling of
// the image matches, and one that does not match is ignored without a word.
func contextKey(named reference.Named) string {
	return strings.TrimSuffix(reference.FamiliarString(named), ":latest")
}

// ForeignRun is a RUN instruction for another platform than the builder's.
type ForeignRun struct {
	Stage    string // as Stages has it
	Line     int    // of its first RUN
	Platform ocispecs.Platform
}

// ForeignRuns lists the stages that the target needs and that run something for a platform which is
// not the build platform: one entry for each stage. Whether the builder can do it without emulation
// (386 on amd64) is for the caller to know.
func (f *File) ForeignRuns(q Query) ([]ForeignRun, error) {
	p, err := f.plan(q)
	if err != nil {
		return nil, err
	}
	var runs []ForeignRun
	build := platforms.FormatAll(p.query.BuildPlatform)
	for _, s := range p.stages {
		platform := p.platformOf(s)
		if !s.reached || platforms.FormatAll(platform) == build {
			continue
		}
		if line := s.firstRun(); line > 0 {
			runs = append(runs, ForeignRun{Stage: s.name, Line: line, Platform: platform})
		}
	}
	return runs, nil
}

// describe lists images for an error, as in "golang:1.22 (line 3), alpine (lines 7, 9)".
func describe(images []*stage) string {
	var names []string
	lines := map[string][]string{}
	for _, s := range images {
		if _, ok := lines[s.from]; !ok {
			names = append(names, s.from)
		}
		if line := fmt.Sprint(s.line); !slices.Contains(lines[s.from], line) {
			lines[s.from] = append(lines[s.from], line)
		}
	}
	for i, name := range names {
		word := "line"
		if len(lines[name]) > 1 {
			word = "lines"
		}
		names[i] = fmt.Sprintf("%s (%s %s)", name, word, strings.Join(lines[name], ", "))
	}
	return strings.Join(names, ", ")
}
