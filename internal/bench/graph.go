package main

import (
	"context"
	"fmt"
	"strings"
)

// A graph of images: so many levels, so many images on each, one on top of the other.
const (
	levels, width = 3, 4
	pathGoal      = 1.3
	// graphOpera is the orchestrator that stands for all in this row.
	graphOpera = "0.7.0"
)

// deployGraph measures twelve images in three levels: beside the time that one chain of them takes, which no order can beat,
// and beside buildx bake, which builds the same images without a registry between the levels.
func deployGraph(ctx context.Context, l *lab, rounds int) ([]measure, error) {
	const size = 8 << 20
	// A step that takes a second and no processor, as a download does, and leaves something behind that has to be packed.
	dir, err := l.makeContext("graph", size, "FROM busybox\nARG N\nRUN --mount=target=/src sleep 1 && mkdir -p $N && cp -r /src $N/\n")
	if err != nil {
		return nil, err
	}
	g := &graph{lab: l, dir: dir}
	const path = ", one chain"
	total := measure{what: "12 images in 3 levels, 4 at once", unit: "s",
		series: []series{{name: bake, peer: true}, {name: ownHost, goal: buildGoal}, {name: "opera " + graphOpera}}}
	own := measure{what: "… beside its critical path", unit: "s",
		series: []series{{name: ownHost + path, peer: true}, {name: ownHost, goal: pathGoal}}}
	opera := measure{what: "… beside its critical path", unit: "s",
		series: []series{{name: "opera " + graphOpera + path, peer: true}, {name: "opera " + graphOpera, goal: pathGoal}}}
	once := func(name string, run func(context.Context) (float64, error)) contender {
		return contender{name, func(ctx context.Context, _ int) (map[string]float64, error) { return one(run(ctx)) }}
	}
	contenders := []contender{
		once(bake, g.bake),
		once(ownHost, func(ctx context.Context) (float64, error) { return g.own(ctx, width) }),
		once(ownHost+path, func(ctx context.Context) (float64, error) { return g.own(ctx, 1) }),
		once("opera "+graphOpera, func(ctx context.Context) (float64, error) { return g.opera(ctx, width) }),
		once("opera "+graphOpera+path, func(ctx context.Context) (float64, error) { return g.opera(ctx, 1) }),
	}
	all := measure{series: []series{
		{name: bake}, {name: ownHost}, {name: ownHost + path}, {name: "opera " + graphOpera}, {name: "opera " + graphOpera + path}}}
	err = alternate(ctx, l, rounds, contenders, map[string]*measure{"": &all})
	for _, m := range []*measure{&total, &own, &opera} {
		for i := range m.series {
			for _, s := range all.series {
				if s.name == m.series[i].name {
					m.series[i].values, m.series[i].failures = s.values, s.failures
				}
			}
		}
	}
	return []measure{total, own, opera}, err
}

// graph is the images of a run: each run has bytes that no other had.
type graph struct {
	*lab
	dir string
}

func (g *graph) name(level, column int) string { return fmt.Sprintf("l%d-c%d", level, column) }

// template has as many columns of images, and gives the inputs with it.
func (g *graph) template(columns int) (string, map[string]any) {
	repository := g.repository("graph")
	var b strings.Builder
	b.WriteString("tosca_definitions_version: tosca_simple_yaml_1_3\nimports:\n  - library/image/types.yaml\ntopology_template:\n  inputs:\n" +
		"    source: { type: imagebuilder.datatypes.Source }\n")
	inputs := map[string]any{"source": g.local(g.dir).Source}
	var nodes strings.Builder
	for level := range levels {
		for column := range columns {
			name := g.name(level, column)
			target := g.local(g.dir, g.image(repository, name)).Target
			target.Images[0].BuildArgs = map[string]string{"N": repository + name} // no two images are the same
			if level == 0 {
				target.Images[0].Base = g.registry.Host + "/base/busybox:1"
			}
			fmt.Fprintf(&b, "    %s: { type: imagebuilder.datatypes.Target }\n", name)
			inputs[name] = target
			kind, on := "imagebuilder.nodes.Image", ""
			if level > 0 {
				kind, on = "imagebuilder.nodes.DerivedImage", "\n        - base: "+g.name(level-1, column)
			}
			fmt.Fprintf(&nodes, "    %s:\n      type: %s\n      requirements:\n        - host: here%s\n      properties:\n"+
				"        source: { get_input: source }\n        target: { get_input: %[1]s }\n", name, kind, on)
		}
	}
	b.WriteString("  node_templates:\n    here:\n      type: tosca.nodes.Compute\n" +
		"      attributes: { private_address: localhost, public_address: localhost }\n" + nodes.String())
	return b.String(), inputs
}

func (g *graph) own(ctx context.Context, columns int) (float64, error) {
	template, inputs := g.template(columns)
	return g.deployTemplate(ctx, template, inputs, "-w", fmt.Sprint(width))
}

func (g *graph) opera(ctx context.Context, columns int) (float64, error) {
	template, inputs := g.template(columns)
	return g.operaDeploys(ctx, graphOpera, template, inputs, "-w", fmt.Sprint(width))
}

func (g *graph) bake(ctx context.Context) (float64, error) {
	repository := g.repository("graph")
	targets := map[string]any{}
	var names []string
	for level := range levels {
		for column := range width {
			name := g.name(level, column)
			target := map[string]any{
				"context": g.dir, "tags": []string{repository + ":" + name}, "output": []string{"type=registry"},
				"args": map[string]string{"N": repository + name},
			}
			contexts := map[string]string{"busybox": "docker-image://" + g.registry.Host + "/base/busybox:1"}
			if level > 0 {
				contexts["busybox"] = "target:" + g.name(level-1, column)
			}
			target["contexts"] = contexts
			targets[name] = target
			names = append(names, name)
		}
	}
	g.runs++
	file, err := g.write(fmt.Sprintf("graph-%d.json", g.runs), map[string]any{
		"group": map[string]any{"default": map[string]any{"targets": names}}, "target": targets,
	})
	if err != nil {
		return 0, err
	}
	return g.time(ctx, g.dir, g.buildx, "bake", "--builder", "bench", "--allow", "fs.read=*", "--progress", "plain", "--file", file)
}
