package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"imagebuilder/internal/buildparams"
)

const (
	matrixSize = 200 << 20
	// transferGoal is what may be sent to the daemon, in contexts: file headers and the other messages are the rest.
	transferGoal = 1.05
)

func variants() []string        { return []string{"alpha", "beta", "gamma", "delta"} }
func matrixPlatforms() []string { return []string{"linux/amd64", "linux/arm64", "linux/arm/v7"} }

// matrix measures the usual case of many variants: one stage builds, each image takes its result onto a base of its own.
func matrix(ctx context.Context, l *lab, rounds int) ([]measure, error) {
	dir, err := l.makeContext("matrix", matrixSize, fmt.Sprintf(
		"FROM --platform=$BUILDPLATFORM %[1]s/base/tools:1 AS build\nCOPY . /src\nRUN cat /src/*/* | md5sum >/sum && cp /src/d00/f00000 /sample\n"+
			"FROM %[1]s/base/busybox:1\nCOPY --from=build /sum /sample /app/\n", l.registry.Host))
	if err != nil {
		return nil, err
	}
	cold := measure{what: "matrix 4 × 3 on 200 MB, built in one stage: cold", unit: "s", series: against(bake)}
	warm := measure{what: "… again, all cached", unit: "s", series: against(bake)}
	changed := measure{what: "… after one file has changed", unit: "s", series: against(bake)}
	if l.force {
		warm.series = append(warm.series, series{name: unchanged})
	}
	err = alternate(ctx, l, rounds, l.matrixContenders(dir, true), map[string]*measure{"cold": &cold, "warm": &warm, "changed": &changed})
	if err != nil {
		return []measure{cold, warm, changed}, err
	}
	sent, err := l.transferred(ctx, dir)
	return []measure{cold, warm, changed, sent}, err
}

// plainMatrix measures images that hold the whole context each, so that compressing it twelve times is most of the work.
func plainMatrix(ctx context.Context, l *lab, rounds int) ([]measure, error) {
	dir, err := l.makeContext("plain", matrixSize, fmt.Sprintf("FROM %s/base/busybox:1\nCOPY . /src\n", l.registry.Host))
	if err != nil {
		return nil, err
	}
	cold := measure{what: "matrix 4 × 3 on 200 MB, all of it in each image: cold", unit: "s", series: against(bake)}
	err = alternate(ctx, l, rounds, l.matrixContenders(dir, false), map[string]*measure{"cold": &cold})
	return []measure{cold}, err
}

func against(peer string) []series {
	return []series{{name: peer, peer: true}, {name: ours, goal: buildGoal}}
}

func (l *lab) matrixContenders(dir string, again bool) []contender {
	contest := func(name string, build func(ctx context.Context, repository string, flags ...string) (float64, error)) contender {
		return contender{name, func(ctx context.Context, _ int) (map[string]float64, error) {
			if err := l.prune(ctx); err != nil {
				return nil, err
			}
			got := map[string]float64{}
			repository := l.repository("matrix")
			phase := func(name string, flags ...string) error {
				took, err := build(ctx, repository, flags...)
				if err == nil {
					got[name] = took
				}
				return err
			}
			if err := phase("cold"); err != nil || !again {
				return got, err
			}
			if err := phase("warm", l.forced(nil)...); err != nil {
				return got, err
			}
			if name == ours && l.force {
				if err := phase("warm/" + unchanged); err != nil {
					return got, err
				}
			}
			if err := l.changeFile(dir); err != nil {
				return got, err
			}
			return got, phase("changed")
		}}
	}
	return []contender{
		contest(bake, func(ctx context.Context, repository string, _ ...string) (float64, error) {
			return l.runBake(ctx, dir, repository, "bench")
		}),
		contest(ours, func(ctx context.Context, repository string, flags ...string) (float64, error) {
			return l.buildDocument(ctx, l.matrixDocument(dir, repository), append(l.engineFlags(), flags...)...)
		}),
	}
}

func (l *lab) matrixDocument(dir, repository string) buildparams.Document {
	var images []buildparams.Image
	for _, v := range variants() {
		image := l.image(repository, v)
		image.Platforms = matrixPlatforms()
		image.Bases = map[string]string{l.registry.Host + "/base/busybox:1": l.registry.Host + "/base/" + v + ":1"}
		images = append(images, image)
	}
	return l.local(dir, images...)
}

// runBake has buildx bake build the same images.
func (l *lab) runBake(ctx context.Context, dir, repository, builder string) (float64, error) {
	type target struct {
		Context   string            `json:"context"`
		Contexts  map[string]string `json:"contexts"`
		Platforms []string          `json:"platforms"`
		Tags      []string          `json:"tags"`
		Output    []string          `json:"output"`
	}
	targets := map[string]target{}
	for _, v := range variants() {
		targets[v] = target{
			Context: dir, Platforms: matrixPlatforms(), Tags: []string{repository + ":" + v}, Output: []string{"type=registry"},
			Contexts: map[string]string{l.registry.Host + "/base/busybox:1": "docker-image://" + l.registry.Host + "/base/" + v + ":1"},
		}
	}
	l.runs++
	file, err := l.write(fmt.Sprintf("bake-%d.json", l.runs), map[string]any{
		"group": map[string]any{"default": map[string]any{"targets": variants()}}, "target": targets,
	})
	if err != nil {
		return 0, err
	}
	return l.time(ctx, dir, l.buildx, "bake", "--builder", builder, "--allow", "fs.read=*", "--progress", "plain", "--file", file)
}

// transferred counts what goes to the daemon in a cold build: the bytes on its socket.
func (l *lab) transferred(ctx context.Context, dir string) (measure, error) {
	m := measure{what: "… bytes sent to the daemon, cold, in contexts", unit: "contexts"}
	size, err := folderSize(dir)
	if err != nil {
		return m, err
	}
	proxy, err := startProxy(strings.TrimPrefix(l.lease.Address, "unix://"), filepath.Join(l.dir, "p.sock"))
	if err != nil {
		return m, err
	}
	defer proxy.close()
	if err := l.addBuilder(ctx, "counted", proxy.address); err != nil {
		return m, err
	}
	count := func(name string, goal float64, build func() (float64, error)) error {
		if err := l.prune(ctx); err != nil {
			return err
		}
		before := proxy.sent.Load()
		_, err := build()
		if err == nil {
			value := float64(proxy.sent.Load()-before) / float64(size)
			m.series = append(m.series, series{name: name, values: []float64{value}, goal: goal, absolute: true})
		}
		return err
	}
	err = count(bake, 0, func() (float64, error) { return l.runBake(ctx, dir, l.repository("sent"), "counted") })
	if err != nil {
		return m, err
	}
	err = count(ours, transferGoal, func() (float64, error) {
		return l.buildDocument(ctx, l.matrixDocument(dir, l.repository("sent")), "--engine", "buildkit", "--buildkit-host", proxy.address)
	})
	return m, err
}
