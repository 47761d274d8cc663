package main

import (
	"context"
	"fmt"

	"imagebuilder/internal/buildparams"
)

// Goals, as ratios to the best peer.
const (
	noopGoal      = 1.5
	unchangedGoal = 0.5
	buildGoal     = 0.8
)

// quick is how much more often that is measured which takes a fraction of a second.
const quick = 3

// noop measures a build in which everything is there already: what remains is starting programs, asking the daemon, and asking
// the registry whether it has each blob.
func noop(ctx context.Context, l *lab, rounds int) ([]measure, error) {
	const size = 1 << 20
	dir, err := l.makeContext("noop", size, fmt.Sprintf("FROM %s/base/busybox:1\nCOPY . /src\nRUN echo one >/one\nRUN echo two >/two\n", l.registry.Host))
	if err != nil {
		return nil, err
	}
	repository := l.repository("noop")
	file, err := l.write("noop.json", l.local(dir, l.image(repository, "ours")))
	if err != nil {
		return nil, err
	}
	contenders := []contender{
		{buildctl, func(ctx context.Context, _ int) (map[string]float64, error) {
			return one(l.runBuildctl(ctx, dir, repository+":buildctl"))
		}},
		{buildx, func(ctx context.Context, _ int) (map[string]float64, error) {
			return one(l.runBuildx(ctx, dir, repository+":buildx"))
		}},
		{ours, func(ctx context.Context, _ int) (map[string]float64, error) {
			_, took, err := l.build(ctx, file, l.forced(l.engineFlags())...)
			return one(took, err)
		}},
	}
	m := measure{what: "no-op: all is cached, push included", unit: "s",
		series: []series{{name: buildctl, peer: true}, {name: buildx}, {name: ours, goal: noopGoal}}}
	if l.force {
		m.series = append(m.series, series{name: unchanged, goal: unchangedGoal})
		contenders = append(contenders, contender{unchanged, func(ctx context.Context, _ int) (map[string]float64, error) {
			r, took, err := l.build(ctx, file, l.engineFlags()...)
			if err == nil && !r.Images[0].Unchanged {
				err = fmt.Errorf("it was built, and should not have been")
			}
			return one(took, err)
		}})
	}
	for _, c := range contenders[:3] { // what is cached has to get there
		if _, err := c.run(ctx, 0); err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	err = alternate(ctx, l, rounds*quick, contenders, map[string]*measure{"": &m})
	return []measure{m}, err
}

// one is what a contender of a single phase got.
func one(took float64, err error) (map[string]float64, error) {
	if err != nil {
		return nil, err
	}
	return map[string]float64{"": took}, nil
}

// oneContext measures a build of one image: from nothing, and again after one file has changed.
func oneContext(ctx context.Context, l *lab, rounds int) ([]measure, error) {
	const size = 100 << 20
	dir, err := l.makeContext("context", size, fmt.Sprintf(
		"FROM %s/base/busybox:1\nCOPY . /src\nRUN cat /src/*/* | md5sum >/sum\nRUN cp -r /src/d01 /copy\n", l.registry.Host))
	if err != nil {
		return nil, err
	}
	twice := func(ctx context.Context, empty func() error, build func(ref string) (float64, error), name string) (map[string]float64, error) {
		if err := empty(); err != nil {
			return nil, err
		}
		got := map[string]float64{}
		ref := l.repository(name) + ":v1"
		var err error
		if got["cold"], err = build(ref); err != nil {
			return nil, err
		}
		if err := l.changeFile(dir); err != nil {
			return got, err
		}
		changed, err := build(ref)
		if err == nil {
			got["changed"] = changed
		}
		return got, err
	}
	prune := func() error { return l.prune(ctx) }
	contenders := []contender{
		{buildctl, func(ctx context.Context, _ int) (map[string]float64, error) {
			return twice(ctx, prune, func(ref string) (float64, error) { return l.runBuildctl(ctx, dir, ref) }, "context")
		}},
		{buildx, func(ctx context.Context, _ int) (map[string]float64, error) {
			return twice(ctx, prune, func(ref string) (float64, error) { return l.runBuildx(ctx, dir, ref) }, "context")
		}},
		{buildah, func(ctx context.Context, _ int) (map[string]float64, error) {
			return twice(ctx, l.removeBuildah, func(ref string) (float64, error) { return l.runBuildah(ctx, dir, ref) }, "context")
		}},
		{ours, func(ctx context.Context, _ int) (map[string]float64, error) {
			return twice(ctx, prune, func(ref string) (float64, error) { return l.buildRefs(ctx, dir, ref) }, "context")
		}},
	}
	all := func() []series {
		return []series{{name: buildctl, peer: true}, {name: buildx, peer: true}, {name: buildah, peer: true}, {name: ours, goal: buildGoal}}
	}
	cold := measure{what: "100 MB context, two RUN, pushed: cold", unit: "s", series: all()}
	changed := measure{what: "… after one file has changed", unit: "s", series: all()}
	err = alternate(ctx, l, rounds, contenders, map[string]*measure{"cold": &cold, "changed": &changed})
	return []measure{cold, changed}, err
}

// buildRefs builds a folder into a reference.
func (l *lab) buildRefs(ctx context.Context, dir, ref string) (float64, error) {
	const tag = ":v1"
	doc := l.local(dir, l.image(ref[:len(ref)-len(tag)], tag[1:]))
	return l.buildDocument(ctx, doc, l.engineFlags()...)
}

func (l *lab) buildDocument(ctx context.Context, doc buildparams.Document, flags ...string) (float64, error) {
	l.runs++
	file, err := l.write(fmt.Sprintf("document-%d.json", l.runs), doc)
	if err != nil {
		return 0, err
	}
	_, took, err := l.build(ctx, file, flags...)
	return took, err
}
