package lifecycle

import (
	"context"
	"encoding/json"
	"errors"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"imagebuilder/internal/emulation"
	"imagebuilder/internal/engine"
	"imagebuilder/internal/engine/managed"
	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
	"imagebuilder/plugin"
)

// doctorWithin bounds what doctor waits for an engine to start or to answer.
const doctorWithin = 30 * time.Second

// doctorInputs is the schema of doctor's inputs. To mend is an input of doctor, and no operation of its own: what comes of
// it is a report, and only that shows whether it helped. It happens in the plugin, as all that is done does.
const doctorInputs = `{"type":"object","additionalProperties":false,"properties":{
	"fix":{"type":"boolean","default":false,"description":"set emulation up first; only root may"}}}`

// doctor mends what it is asked to, and then reports.
func (p *Plugin) doctor(ctx context.Context, req plugin.Request) (json.RawMessage, error) {
	fix, err := doctorFix(req)
	if err != nil {
		return nil, err
	}
	settings, err := decodeSettings(req)
	if err != nil {
		return nil, err
	}
	var registered []string
	if fix {
		if registered, err = p.machine.Setup(); err != nil {
			return nil, err
		}
	}
	report, err := examine(ctx, settings, p.machine, !fix) // root, who mends for everybody, asked for no engine of its own
	if err != nil {
		return nil, err
	}
	report.Checks = append(report.Checks, checkEmulation(p.machine, registered))
	return encode(report, nil)
}

// doctorFix reads the inputs, of which there is one.
func doctorFix(req plugin.Request) (fix bool, err error) {
	var inputs map[string]json.RawMessage
	if err := json.Unmarshal(req.Inputs, &inputs); err != nil || inputs == nil {
		return false, fault.InvalidInput("inputs of "+Doctor, []fault.Problem{{Message: "they are no JSON object"}})
	}
	var problems []fault.Problem
	for name, value := range inputs {
		pointer := "/" + fault.EscapePointer(name)
		if name != "fix" {
			problems = append(problems, fault.Problem{Pointer: pointer, Message: "there is no such input", Hint: "doctor takes fix, and nothing else"})
		} else if json.Unmarshal(value, &fix) != nil || string(value) == "null" {
			problems = append(problems, fault.Problem{Pointer: pointer, Message: "it is neither true nor false"})
		}
	}
	return fix, fault.InvalidInput("inputs of "+Doctor, problems)
}

// examine looks at every engine and at what builds need besides. What is missing is part of the answer, not an error.
// With start it starts the managed engine, because only a start shows that it can.
func examine(ctx context.Context, s result.Settings, m emulation.Machine, start bool) (*result.Doctor, error) {
	ctx, cancel := context.WithTimeout(ctx, doctorWithin)
	defer cancel()
	out := &result.Doctor{}
	out.Engines = append(out.Engines, reportBuildKit(ctx, s, m), reportDocker(ctx, s, m))
	cfg, err := managedConfig(s)
	if err != nil {
		return nil, err
	}
	report := result.EngineReport{Name: engineManaged}
	if start {
		if report, err = reportManaged(ctx, s, m); err != nil {
			return nil, err
		}
	}
	info, err := managed.Status(cfg)
	if err != nil {
		return nil, err
	}
	if !start {
		report = reportIdle(info, m)
	}
	out.Engines = append(out.Engines, report)
	if out.Nodes, err = reportNodes(ctx, s, m); err != nil {
		return nil, err
	}
	out.Checks = []result.Check{checkGit()}
	out.Managed = result.ManagedReport{Running: info.Running, StateDir: info.StateDir, DiskBytes: info.DiskUse, CapBytes: info.CacheCap}
	return out, nil
}

func reportBuildKit(ctx context.Context, s result.Settings, m emulation.Machine) result.EngineReport {
	report := result.EngineReport{Name: engineBuildKit, Address: buildKitAddress(s)}
	if report.Address == "" {
		report.Detail, report.Fix = "no daemon is configured", "set BUILDKIT_HOST or give --buildkit-host"
		return report
	}
	eng, err := openBuildKit(ctx, s)
	if err != nil {
		f := fault.As(err)
		report.Detail, report.Fix = f.Message, f.Hint
		return report
	}
	defer eng.Close()
	describe(ctx, &report, eng.(*engine.BuildKit), m)
	return report
}

func reportDocker(ctx context.Context, s result.Settings, m emulation.Machine) result.EngineReport {
	report := result.EngineReport{Name: engineDocker}
	if !engine.HasDocker(s.DockerHost) {
		report.Detail, report.Fix = "no Docker Engine is configured, and none is at the usual place", "install Docker, or set DOCKER_HOST or DOCKER_CONTEXT"
		return report
	}
	eng, err := engine.DialDocker(ctx, s.DockerHost)
	if err != nil {
		f := fault.As(err)
		report.Detail, report.Fix = f.Message, f.Hint
		return report
	}
	defer eng.Close()
	describe(ctx, &report, eng, m)
	return report
}

// reportManaged starts the engine.
func reportManaged(ctx context.Context, s result.Settings, m emulation.Machine) (result.EngineReport, error) {
	report := result.EngineReport{Name: engineManaged}
	eng, err := openManaged(ctx, s, nil, event.Discard)
	if err != nil {
		if ctx.Err() != nil && !errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
			return report, err
		}
		f := fault.As(err)
		report.Detail, report.Fix = f.Message, f.Hint
		return report, nil
	}
	defer eng.Close()
	describe(ctx, &report, eng.(*engine.BuildKit), m)
	return report, nil
}

// reportIdle says what the managed engine lacks, without starting it.
func reportIdle(info managed.Info, m emulation.Machine) result.EngineReport {
	report := result.EngineReport{Name: engineManaged, Available: len(info.Problems) == 0, Address: info.Address, Version: info.Buildkitd}
	if !report.Available {
		report.Detail, report.Fix = info.Problems[0].Message, info.Problems[0].Hint
		return report
	}
	report.Platforms = platformReports(emulation.Native(), m.Runs())
	return report
}

// describable is an engine that tells about itself.
type describable interface {
	engine.Runner
	Address() string
	Version(ctx context.Context) string
	Platform(target ocispecs.Platform) ocispecs.Platform
}

func describe(ctx context.Context, report *result.EngineReport, eng describable, m emulation.Machine) {
	report.Available, report.Address, report.Version = true, eng.Address(), eng.Version(ctx)
	can, here := eng.Runs(ctx, platforms.DefaultSpec())
	own := emulation.Native()
	switch {
	case here && m.Blind: // what a daemon found that was started just now
	case here:
		can = m.Runs()
	default:
		own = []ocispecs.Platform{eng.Platform(platforms.DefaultSpec())}
		report.Detail = "it is on another machine: what it says of emulation there may be out of date"
	}
	report.Platforms = platformReports(own, can)
}

func platformReports(own, can []ocispecs.Platform) []result.PlatformReport {
	var reports []result.PlatformReport
	for _, p := range emulation.Usual() {
		reports = append(reports, result.PlatformReport{Platform: platforms.Format(p), How: how(p, own, can)})
	}
	return reports
}

func how(p ocispecs.Platform, own, can []ocispecs.Platform) result.How {
	switch {
	case emulation.Runs(own, p):
		return result.Native
	case emulation.Runs(can, p):
		return result.Emulated
	default:
		return result.None
	}
}

func checkGit() result.Check {
	check := result.Check{Name: "git"}
	path, err := exec.LookPath("git")
	if err != nil {
		check.Detail = "not found; needed for repositories with .gitattributes and for commits that a server does not advertise"
		if check.Fix = "install git"; runtime.GOOS == "linux" {
			check.Fix = "apt-get install git"
		}
		return check
	}
	check.OK, check.Detail = true, path
	return check
}

// checkEmulation says for which of the usual platforms this machine cannot carry out a RUN.
func checkEmulation(m emulation.Machine, registered []string) result.Check {
	check := result.Check{Name: "emulation"}
	if runtime.GOOS != "linux" {
		check.OK, check.Detail = true, "it is a matter of the machine where images are built, which is not this one"
		return check
	}
	if m.Blind {
		check.OK, check.Detail = true, "a container does not see what its machine emulates; an engine in it does"
		return check
	}
	if missing := m.Missing(); len(missing) > 0 {
		check.Detail = "no RUN can be carried out here for " + emulation.Names(missing) + "; a Dockerfile without one needs no emulation"
		check.Fix = m.Remedy()
		return check
	}
	check.OK, check.Detail = true, "every usual platform is native or emulated"
	if len(registered) > 0 {
		check.Detail += "; registered just now: " + strings.Join(registered, ", ")
	}
	return check
}
