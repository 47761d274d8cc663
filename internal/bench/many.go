package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"imagebuilder/internal/buildparams"
)

// many is how many builds there are at once.
const many = 50

// manyBuilds measures as many runs of image-builder as a busy CI machine sees, each with a RUN of its own.
func manyBuilds(ctx context.Context, l *lab, rounds int) ([]measure, error) {
	const size = 1 << 20
	dir, err := l.makeContext("many", size, fmt.Sprintf("FROM %s/base/busybox:1\nCOPY . /src\nARG N\nRUN echo $N >/n\n", l.registry.Host))
	if err != nil {
		return nil, err
	}
	const together, after = "at once", "one after another"
	total := measure{what: "50 builds through one daemon", unit: "s", series: []series{{name: after, peer: true}, {name: together, goal: 1}}}
	failed := measure{what: "… of which failed", unit: "builds", series: []series{{name: after}, {name: together}}}
	measures := map[string]*measure{"total": &total, "failed": &failed}
	err = alternate(ctx, l, rounds, []contender{
		{after, func(ctx context.Context, _ int) (map[string]float64, error) { return l.buildMany(ctx, dir, 1) }},
		{together, func(ctx context.Context, _ int) (map[string]float64, error) { return l.buildMany(ctx, dir, many) }},
	}, measures)
	return []measure{total, failed}, err
}

// buildMany runs image-builder many times, so many at once.
func (l *lab) buildMany(ctx context.Context, dir string, atOnce int) (map[string]float64, error) {
	if err := l.prune(ctx); err != nil {
		return nil, err
	}
	repository := l.repository("many")
	files := make([]string, many)
	for i := range files {
		image := l.image(repository, fmt.Sprintf("v%d", i))
		image.BuildArgs = map[string]string{"N": fmt.Sprintf("%s %d", repository, i)}
		file, err := l.write(fmt.Sprintf("many-%d.json", i), l.local(dir, []buildparams.Image{image}...))
		if err != nil {
			return nil, err
		}
		files[i] = file
	}
	errs := make([]error, many)
	slots := make(chan struct{}, atOnce)
	var all sync.WaitGroup
	began := time.Now()
	for i, file := range files {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			_, _, errs[i] = l.build(ctx, file, l.engineFlags()...)
		})
	}
	all.Wait()
	got := map[string]float64{"total": time.Since(began).Seconds(), "failed": 0}
	for _, err := range errs {
		if err != nil {
			got["failed"]++
		}
	}
	if got["failed"] > 0 {
		l.say("  %.0f builds failed: %s", got["failed"], errors.Join(errs...))
	}
	return got, nil
}
