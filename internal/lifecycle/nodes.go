package lifecycle

import (
	"context"
	"slices"
	"sync"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"imagebuilder/internal/dockerfile"
	"imagebuilder/internal/emulation"
	"imagebuilder/internal/engine"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
)

// node is a node of the settings, understood.
type node struct {
	result.Node
	platforms []ocispecs.Platform
}

// nodesOf reads the settings' nodes. Several entries with the same address are one node.
func nodesOf(s result.Settings) ([]node, error) {
	var nodes []node
	for _, one := range s.Nodes {
		i := slices.IndexFunc(nodes, func(n node) bool { return n.Address == one.Address })
		if i < 0 {
			i, nodes = len(nodes), append(nodes, node{Node: one})
		}
		if len(one.Platforms) == 0 {
			return nil, fault.New(fault.Invalid, "node %s claims no platform", one.Address)
		}
		for _, name := range one.Platforms {
			p, err := platforms.Parse(name)
			if err != nil {
				return nil, fault.New(fault.Invalid, "node %s: %q is no platform such as linux/arm64", one.Address, name)
			}
			nodes[i].platforms = append(nodes[i].platforms, platforms.Normalize(p))
		}
	}
	return nodes, nil
}

// openEngines opens the engine that the settings ask for and, of the nodes, those that claim what the document wants.
func (j *job) openEngines(ctx context.Context) (engine.Engine, error) {
	nodes, err := nodesOf(j.settings)
	if err != nil {
		return nil, err
	}
	if len(nodes) == 0 {
		return openEngine(ctx, j.settings, j.turns, j.emit)
	}
	opts := engine.NodesOptions{
		Main: engine.Node{Name: engineName(j.settings), Open: func(ctx context.Context) (engine.Engine, error) {
			return openEngine(ctx, j.settings, j.turns, j.emit)
		}},
		Manifests: j.registry, Emit: j.emit, MayMove: j.mayMove,
	}
	for _, n := range nodes {
		opts.Nodes = append(opts.Nodes, engine.Node{Name: "node " + n.Address, Platforms: n.platforms, Open: n.open})
	}
	for _, v := range j.variants {
		for _, p := range v.platforms {
			if !emulation.Contains(opts.Wanted, p) {
				opts.Wanted = append(opts.Wanted, p)
			}
		}
	}
	eng, err := engine.OpenNodes(ctx, opts)
	if err != nil {
		return nil, err
	}
	return eng, nil
}

func (n node) open(ctx context.Context) (engine.Engine, error) {
	eng, err := engine.Dial(ctx, engineBuildKit, n.Address, engine.TLS{CA: n.CA, Cert: n.Cert, Key: n.Key}, nil)
	if err != nil {
		return nil, fault.Wrap(err, "node for %s", emulation.Names(n.platforms))
	}
	return eng, nil
}

// expectedPlatform is what stages on $BUILDPLATFORM would run on, as far as it can be known without asking the engines: a
// node is taken to be what it claims first, and the main engine to be like this machine.
func (j *job) expectedPlatform() (func(target ocispecs.Platform) ocispecs.Platform, error) {
	nodes, err := nodesOf(j.settings)
	if err != nil {
		return nil, err
	}
	return func(target ocispecs.Platform) ocispecs.Platform {
		for _, n := range nodes {
			if emulation.Contains(n.platforms, target) {
				return n.platforms[0]
			}
		}
		return platforms.Normalize(platforms.DefaultSpec())
	}, nil
}

// correctBases finds the bases of variants anew where the engines turn out to run stages on $BUILDPLATFORM on something else than
// what the nodes were taken for.
func (j *job) correctBases(ctx context.Context, eng engine.Engine, variants []*variant) error {
	expected, err := j.expectedPlatform()
	if err != nil {
		return err
	}
	surprising := func(p ocispecs.Platform) bool {
		return platforms.FormatAll(eng.Platform(p)) != platforms.FormatAll(expected(p))
	}
	if len(j.settings.Nodes) == 0 || !slices.ContainsFunc(variants, func(v *variant) bool { return slices.ContainsFunc(v.platforms, surprising) }) {
		return nil
	}
	for _, v := range j.variants {
		v.uses = nil
	}
	if err := j.findBases(eng.Platform); err != nil {
		return err
	}
	if err := j.resolveReplacements(ctx); err != nil {
		return err
	}
	if j.doc.Options.NoCache {
		return nil
	}
	return j.computeKeys(ctx)
}

// nodesFor names, for an image, the node that builds each platform that one claims.
func nodesFor(v *variant, nodes []node) map[string]string {
	on := map[string]string{}
	for i, name := range v.image.Platforms {
		for _, n := range slices.Backward(nodes) { // the first that claims it builds it
			if emulation.Contains(n.platforms, v.platforms[i]) {
				on[name] = n.Address
			}
		}
	}
	return on
}

// mayMove tells whether a platform that was meant for a lost node can be built elsewhere. What was planned for its bases must
// still hold, and the main engine must be known to run its steps.
func (j *job) mayMove(ctx context.Context, v engine.Variant, target, planned, now ocispecs.Platform, main engine.Engine) bool {
	i := slices.IndexFunc(j.variants, func(own *variant) bool { return own.ref == v.Name })
	if i < 0 {
		return false
	}
	q := dockerfile.Query{Args: v.BuildArgs, Stage: v.Stage, Platform: target, BuildPlatform: now}
	if !j.sameGround(q, planned) {
		return false
	}
	if main == nil {
		return true
	}
	can, _ := j.abilityOf(ctx, main)(target)
	if can == nil {
		can = []ocispecs.Platform{now}
	}
	foreign, err := j.foreignRuns(j.variants[i], target, now, can)
	return err == nil && len(foreign) == 0
}

// sameGround tells whether the image stands on the same base when its build platform is another than planned.
func (j *job) sameGround(q dockerfile.Query, planned ocispecs.Platform) bool {
	under := func(build ocispecs.Platform) (string, bool) {
		q.BuildPlatform = build
		bases, err := j.file.Bases(q)
		if err != nil {
			return "", false
		}
		for _, b := range bases {
			if b.Under {
				return b.Ref + " " + platforms.FormatAll(b.Platform), true
			}
		}
		return "", true
	}
	before, ok1 := under(planned)
	after, ok2 := under(q.BuildPlatform)
	return ok1 && ok2 && before == after
}

// reportNodes asks all nodes at once what they are.
func reportNodes(ctx context.Context, s result.Settings, m emulation.Machine) ([]result.EngineReport, error) {
	nodes, err := nodesOf(s)
	if err != nil {
		return nil, err
	}
	reports := make([]result.EngineReport, len(nodes))
	var all sync.WaitGroup
	for i, n := range nodes {
		all.Go(func() { reports[i] = n.report(ctx, m) })
	}
	all.Wait()
	return reports, nil
}

func (n node) report(ctx context.Context, m emulation.Machine) result.EngineReport {
	report := result.EngineReport{Name: emulation.Names(n.platforms), Address: n.Address}
	eng, err := n.open(ctx)
	if err != nil {
		f := fault.As(err)
		report.Detail, report.Fix = f.Message, f.Hint
		return report
	}
	defer eng.Close()
	known, ok := eng.(describable)
	if !ok {
		return report
	}
	describe(ctx, &report, known, m)
	report.Detail = ""
	report.Platforms = slices.DeleteFunc(report.Platforms, func(p result.PlatformReport) bool {
		return !emulation.Contains(n.platforms, platforms.MustParse(p.Platform))
	})
	return report
}
