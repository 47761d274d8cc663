package lifecycle

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"imagebuilder/internal/dockerfile"
	"imagebuilder/internal/emulation"
	"imagebuilder/internal/engine"
	"imagebuilder/internal/fault"
)

// ability tells for which platforms a RUN can be carried out where images of the target platform are built, and
// whether that is this machine. Nil means that it is not known.
type ability func(target ocispecs.Platform) (can []ocispecs.Platform, here bool)

// refuseForeignRuns finds every RUN of the variants that the engine could not carry out: without emulation such a RUN
// ends in "exec format error" after all that stands before it was built.
func (j *job) refuseForeignRuns(variants []*variant, build func(target ocispecs.Platform) ocispecs.Platform, able ability) error {
	var problems []fault.Problem
	for _, v := range variants {
		for platform, target := range v.platforms {
			runs, err := j.foreignRuns(v, target, build(target), nil)
			if err != nil {
				return err
			}
			if len(runs) == 0 {
				continue
			}
			can, here := able(target)
			i := slices.IndexFunc(runs, func(r dockerfile.ForeignRun) bool { return !emulation.Runs(can, r.Platform) })
			if can != nil && i >= 0 {
				problems = append(problems, j.foreignProblem(v, platform, runs[i], here))
			}
		}
	}
	return fault.InvalidInput(j.tree.DockerfileName+": a RUN is for a platform that is neither native nor emulated where it would run", problems)
}

// foreignRuns are the RUNs of a variant for another platform than $BUILDPLATFORM, which is build, and than those that can be run.
func (j *job) foreignRuns(v *variant, target, build ocispecs.Platform, can []ocispecs.Platform) ([]dockerfile.ForeignRun, error) {
	runs, err := j.file.ForeignRuns(dockerfile.Query{Args: v.args, Stage: v.image.Stage, Platform: target, BuildPlatform: build})
	if err != nil {
		return nil, fault.Wrap(err, "%s", v.ref)
	}
	return slices.DeleteFunc(runs, func(r dockerfile.ForeignRun) bool { return emulation.Runs(can, r.Platform) }), nil
}

func (j *job) foreignProblem(v *variant, platform int, run dockerfile.ForeignRun, here bool) fault.Problem {
	name := platforms.Format(run.Platform)
	p := fault.Problem{
		Pointer: fmt.Sprintf("/target/images/%d/platforms/%d", v.index, platform),
		Message: fmt.Sprintf("%s:%d: stage %s runs programs of %s, which this machine does not emulate", j.tree.DockerfileName, run.Line, run.Stage, name),
		Hint:    j.machine.Remedy(),
	}
	if !here {
		p.Message = fmt.Sprintf("%s:%d: stage %s runs programs of %s, which the engine's machine does not emulate", j.tree.DockerfileName, run.Line, run.Stage, name)
		p.Hint = "on that machine: sudo " + emulation.Command
	}
	p.Hint += "; or name a builder of that platform: --node " + name + "=ADDRESS"
	return p
}

// abilityOf asks an engine. Of one that builds on this machine it believes the kernel alone, if that can be asked.
func (j *job) abilityOf(ctx context.Context, eng engine.Engine) ability {
	runner, ok := eng.(engine.Runner)
	if !ok {
		return func(ocispecs.Platform) ([]ocispecs.Platform, bool) { return nil, false }
	}
	return func(target ocispecs.Platform) ([]ocispecs.Platform, bool) {
		can, here := runner.Runs(ctx, target)
		if here && !j.machine.Blind {
			return j.machine.Runs(), true
		}
		return can, false
	}
}

// expectedAbility is what can be known without starting an engine: of the one of our own, which runs on this machine,
// and of a daemon that answers.
func (j *job) expectedAbility(ctx context.Context) (able ability, done func()) {
	nodes, err := nodesOf(j.settings)
	running := sync.OnceValue(func() engine.Engine {
		var eng engine.Engine
		var err error
		switch engineName(j.settings) {
		case engineBuildKit:
			eng, err = openBuildKit(ctx, j.settings)
		case engineDocker:
			eng, err = openDocker(ctx, j.settings)
		}
		if err != nil {
			return nil // to be built, it will have to answer; to be planned, it need not
		}
		return eng
	})
	asked := false
	able = func(target ocispecs.Platform) ([]ocispecs.Platform, bool) {
		switch {
		case err != nil || slices.ContainsFunc(nodes, func(n node) bool { return emulation.Contains(n.platforms, target) }):
			return nil, false
		case engineName(j.settings) == engineManaged && j.machine.Blind:
			return nil, false
		case engineName(j.settings) == engineManaged:
			return j.machine.Runs(), true
		}
		asked = true
		return j.abilityOf(ctx, running())(target)
	}
	return able, func() {
		if asked && running() != nil {
			_ = running().Close()
		}
	}
}
