package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"imagebuilder/internal/buildparams"
)

// Goals of what hosts of templates add, in seconds.
const (
	ownHostGoal = 0.05
	operaGoal   = 0.2
)

// ownHost is the contender that deploys templates without opera.
const ownHost = "image-builder deploy"

// operas are the orchestrators that scripts/opera.sh has made environments for.
func operas() []string { return []string{"0.6.6", "0.6.9", "0.7.0"} }

// deployOne measures one image, deployed by several hosts, and what the orchestrators cost by themselves.
func deployOne(ctx context.Context, l *lab, rounds int) ([]measure, error) {
	const size = 1 << 20
	dir, err := l.makeContext("deploy", size, fmt.Sprintf("FROM %s/base/busybox:1\nCOPY . /src\nRUN echo one >/one\n", l.registry.Host))
	if err != nil {
		return nil, err
	}
	same := l.repository("deploy")
	document := func(tag string) buildparams.Document { return l.local(dir, l.image(same, tag)) }
	var contenders []contender
	same1 := measure{what: "one image, deployed again, unchanged", unit: "s", series: []series{{name: ours, peer: true}, {name: ownHost}}}
	cached := measure{what: "… under a new tag, all cached", unit: "s", series: []series{{name: ours, peer: true}, {name: ownHost}}}
	contend := func(name string, run func(ctx context.Context, doc buildparams.Document) (float64, error)) {
		contenders = append(contenders, contender{name, func(ctx context.Context, _ int) (map[string]float64, error) {
			took, err := run(ctx, document("same"))
			if err != nil {
				return nil, err
			}
			l.runs++
			anew, err := run(ctx, document(fmt.Sprintf("new-%d", l.runs)))
			return map[string]float64{"same": took, "cached": anew}, err
		}})
	}
	contend(ours, func(ctx context.Context, doc buildparams.Document) (float64, error) {
		return l.buildDocument(ctx, doc, l.engineFlags()...)
	})
	contend(ownHost, l.deployOwn)
	for _, version := range operas() {
		name := "opera " + version
		same1.series, cached.series = append(same1.series, series{name: name}), append(cached.series, series{name: name})
		contend(name, func(ctx context.Context, doc buildparams.Document) (float64, error) {
			return l.deployOpera(ctx, version, doc)
		})
		for _, playbook := range []struct{ what, tasks string }{{nothing, "[]"}, {command, `[ansible.builtin.command: "true"]`}} {
			name := "opera " + version + playbook.what
			same1.series = append(same1.series, series{name: name})
			contenders = append(contenders, contender{name, func(ctx context.Context, _ int) (map[string]float64, error) {
				took, err := l.runPlaybook(ctx, version, playbook.tasks)
				return map[string]float64{"same": took}, err
			}})
		}
	}
	if _, err := l.buildDocument(ctx, document("same"), l.engineFlags()...); err != nil {
		return nil, err
	}
	err = alternate(ctx, l, rounds, contenders, map[string]*measure{"same": &same1, "cached": &cached})
	return []measure{same1, cached, added(same1), added(cached, same1)}, err
}

// What a playbook does that has nothing to do with us.
const (
	nothing = ", empty playbook"
	command = ", playbook with one command"
)

// added is what hosts add to image-builder build, round by round; opera to its playbook with one command as well, whose times
// are in the last of the measures.
func added(in measure, commands ...measure) measure {
	times := func(m measure, name string) []float64 {
		for _, s := range m.series {
			if s.name == name {
				return s.values
			}
		}
		return nil
	}
	alone := append([]measure{in}, commands...)
	out := measure{what: "… what is added to image-builder build", unit: in.unit}
	difference := func(name string, goal float64, whole []float64, parts ...[]float64) {
		s := series{name: name, goal: goal, absolute: true}
		for i, v := range whole {
			for _, part := range parts {
				if i >= len(part) {
					v = 0
					break
				}
				v -= part[i]
			}
			s.values = append(s.values, v)
		}
		out.series = append(out.series, s)
	}
	build := times(in, ours)
	difference(ownHost, ownHostGoal, times(in, ownHost), build)
	for _, version := range operas() {
		name := "opera " + version
		difference(name+", over its playbook with one command", operaGoal, times(in, name), build, times(alone[len(alone)-1], name+command))
	}
	return out
}

// deployFolder is a folder to deploy a template from.
func (l *lab) deployFolder(template string, inputs any) (string, error) {
	l.runs++
	dir := l.path(fmt.Sprintf("deploy-%d", l.runs))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if err := os.Symlink(filepath.Join(l.root, "library"), filepath.Join(dir, "library")); err != nil {
		return "", err
	}
	if _, err := l.write(filepath.Join(filepath.Base(dir), "inputs.yaml"), inputs); err != nil { // JSON is YAML
		return "", err
	}
	return dir, os.WriteFile(filepath.Join(dir, "template.yaml"), []byte(template), 0o600)
}

// definition is the template for one image, and its inputs.
func (l *lab) definition(doc buildparams.Document) (template string, inputs any, err error) {
	data, err := os.ReadFile(filepath.Join(l.root, "tosca", "docker_image_definition.yaml"))
	return string(data), map[string]any{"source": doc.Source, "target": doc.Target}, err
}

func (l *lab) deployOwn(ctx context.Context, doc buildparams.Document) (float64, error) {
	template, inputs, err := l.definition(doc)
	if err != nil {
		return 0, err
	}
	return l.deployTemplate(ctx, template, inputs)
}

func (l *lab) deployTemplate(ctx context.Context, template string, inputs any, flags ...string) (float64, error) {
	dir, err := l.deployFolder(template, inputs)
	if err != nil {
		return 0, err
	}
	argv := append([]string{l.builder, "deploy", "-i", "inputs.yaml", "template.yaml", "--progress", "plain"}, l.engineFlags()...)
	return l.time(ctx, dir, append(argv, flags...)...)
}

func (l *lab) deployOpera(ctx context.Context, version string, doc buildparams.Document) (float64, error) {
	template, inputs, err := l.definition(doc)
	if err != nil {
		return 0, err
	}
	return l.operaDeploys(ctx, version, template, inputs)
}

// operaDeploys runs opera deploy in a folder of its own. image-builder gets its settings by environment, as it does there.
func (l *lab) operaDeploys(ctx context.Context, version, template string, inputs any, flags ...string) (float64, error) {
	dir, err := l.deployFolder(template, inputs)
	if err != nil {
		return 0, err
	}
	return l.opera(ctx, version, dir, append([]string{"deploy", "-i", "inputs.yaml", "template.yaml"}, flags...)...)
}

func (l *lab) opera(ctx context.Context, version, dir string, args ...string) (float64, error) {
	bin := filepath.Join(l.root, ".work", "opera", "opera-"+version, "bin")
	argv := []string{"env", "PATH=" + bin + ":" + filepath.Join(l.root, "bin") + ":" + os.Getenv("PATH"), "LC_ALL=C.UTF-8",
		"IMAGE_BUILDER_ENGINE=managed", "IMAGE_BUILDER_STATE_DIR=" + l.engine.StateDir, "IMAGE_BUILDER_ENGINE_IDLE=" + l.engine.Idle.String(),
		fmt.Sprintf("IMAGE_BUILDER_ENGINE_CACHE_CAP=%dMiB", l.engine.CacheCap>>20), "IMAGE_BUILDER_CACHE_DIR=" + l.path("mirrors"),
		filepath.Join(bin, "opera")}
	return l.time(ctx, dir, append(argv, args...)...)
}

// runPlaybook has opera deploy a node whose only operation is a playbook with these tasks.
func (l *lab) runPlaybook(ctx context.Context, version, tasks string) (float64, error) {
	dir, err := l.deployFolder(`tosca_definitions_version: tosca_simple_yaml_1_3
node_types:
  bench.nodes.Playbook:
    derived_from: tosca.nodes.SoftwareComponent
    interfaces:
      Standard:
        type: tosca.interfaces.node.lifecycle.Standard
        operations:
          create:
            implementation:
              primary: playbook.yaml
topology_template:
  node_templates:
    here:
      type: tosca.nodes.Compute
      attributes: { private_address: localhost, public_address: localhost }
    playbook:
      type: bench.nodes.Playbook
      requirements:
        - host: here
`, map[string]any{})
	if err != nil {
		return 0, err
	}
	playbook := "- hosts: all\n  gather_facts: false\n  tasks: " + tasks + "\n"
	if err := os.WriteFile(filepath.Join(dir, "playbook.yaml"), []byte(playbook), 0o600); err != nil {
		return 0, err
	}
	return l.opera(ctx, version, dir, "deploy", "template.yaml")
}
