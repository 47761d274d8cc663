package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
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
)

// doctorWithin bounds what doctor waits for an engine to start or to answer.
const doctorWithin = 30 * time.Second

// usualPlatforms are those that doctor reports on: the seven that images are commonly built for.
var usualPlatforms = []string{
	"linux/amd64", "linux/386", "linux/arm64", "linux/arm/v7", "linux/arm/v6", "linux/ppc64le", "linux/s390x",
}

// doctor looks at every engine and at what builds need besides. What is missing is part of the answer, not an error.
func doctor(ctx context.Context, s result.Settings) (*result.Doctor, error) {
	ctx, cancel := context.WithTimeout(ctx, doctorWithin)
	defer cancel()
	out := &result.Doctor{}
	out.Engines = append(out.Engines, reportBuildKit(ctx, s))
	report, err := reportManaged(ctx, s)
	if err != nil {
		return nil, err
	}
	out.Engines = append(out.Engines, report)
	out.Checks = []result.Check{checkGit(), checkEmulation()}
	cfg, err := managedConfig(s)
	if err != nil {
		return nil, err
	}
	info, err := managed.Status(cfg)
	if err != nil {
		return nil, err
	}
	out.Managed = result.ManagedReport{Running: info.Running, StateDir: info.StateDir, DiskBytes: info.DiskUse, CapBytes: info.CacheCap}
	return out, nil
}

func reportBuildKit(ctx context.Context, s result.Settings) result.EngineReport {
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
	describe(ctx, &report, eng.(*engine.BuildKit), strings.HasPrefix(report.Address, "unix://"))
	return report
}

// reportManaged starts the engine, because only a start shows that it can.
func reportManaged(ctx context.Context, s result.Settings) (result.EngineReport, error) {
	report := result.EngineReport{Name: engineManaged}
	eng, err := openManaged(ctx, s, event.Discard)
	if err != nil {
		if ctx.Err() != nil && !errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
			return report, err
		}
		f := fault.As(err)
		report.Detail, report.Fix = f.Message, f.Hint
		return report, nil
	}
	defer eng.Close()
	describe(ctx, &report, eng.(*engine.BuildKit), true)
	return report, nil
}

func describe(ctx context.Context, report *result.EngineReport, eng *engine.BuildKit, local bool) {
	report.Available, report.Address, report.Version = true, eng.Address(), eng.Version(ctx)
	if !local {
		report.Detail = "it is on another machine: which platforms are emulated there cannot be seen from here"
		report.Platforms = append(report.Platforms, result.PlatformReport{Platform: platforms.Format(eng.Platform()), How: result.Native})
		return
	}
	own, emulated := emulation.Native(), emulation.Emulated(os.DirFS(emulation.BinfmtDir))
	for _, name := range usualPlatforms {
		report.Platforms = append(report.Platforms, result.PlatformReport{Platform: name, How: how(platforms.MustParse(name), own, emulated)})
	}
}

func how(p ocispecs.Platform, own, emulated []ocispecs.Platform) result.How {
	switch {
	case emulation.Contains(own, p):
		return result.Native
	case emulation.Contains(emulated, p):
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
		check.Fix = "apt-get install git"
		return check
	}
	check.OK, check.Detail = true, path
	return check
}

func checkEmulation() result.Check {
	check := result.Check{Name: "emulation"}
	emulated := emulation.Emulated(os.DirFS(emulation.BinfmtDir))
	if len(emulated) == 0 {
		check.Detail = "no foreign platform is emulated; a Dockerfile without RUN for one needs none"
		check.Fix = "apt-get install qemu-user-static, with binfmt_misc mounted at " + emulation.BinfmtDir
		return check
	}
	check.OK, check.Detail = true, fmt.Sprintf("%d platforms by binfmt_misc", len(emulated))
	return check
}
