package cli_test

import (
	"context"
	"encoding/json"
	"os"
	"time"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
	"imagebuilder/plugin"
)

// scriptedPlugin is a real plugin process that does what the document's options.build_args say, so that scripts
// can see every outcome of an operation without an engine:
//
//	DO=ok, partial, echo, hang, crash, panic, or a kind of fault
//	READY=PATH is made once the operation runs
type scriptedPlugin struct{}

const (
	digestA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	digestB = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

func (scriptedPlugin) Describe(context.Context) (plugin.Description, error) {
	return plugin.Description{Name: "scripted-plugin", Version: "v9", Nodes: []plugin.NodeType{
		{Name: "imagebuilder.nodes.Image", Operations: []plugin.Operation{{Name: "create", CanPlan: true}}},
		{Name: "imagebuilder.nodes.Engine", Operations: []plugin.Operation{{Name: "doctor"}}},
		{Name: "example.nodes.Thing", Operations: []plugin.Operation{{Name: "create"}, {Name: "delete"}}},
	}}, nil
}

// orders are what the document wants the plugin to do.
func orders(req plugin.Request) map[string]string {
	var document struct {
		Options struct {
			BuildArgs map[string]string `json:"build_args"`
		} `json:"options"`
	}
	if err := json.Unmarshal(req.Inputs, &document); err != nil {
		panic(err)
	}
	return document.Options.BuildArgs
}

func (scriptedPlugin) Plan(_ context.Context, req plugin.Request) (json.RawMessage, error) {
	switch do := orders(req)["DO"]; do {
	case "ok":
		return encode(scriptedPlan()), nil
	case "echo":
		return encode(req), nil
	default:
		return nil, scriptedFault(do)
	}
}

func (scriptedPlugin) Execute(ctx context.Context, req plugin.Request, emit plugin.Sink) (json.RawMessage, error) {
	switch {
	case req.Operation == "doctor":
		return scriptedDoctor(req)
	case req.NodeType == "example.nodes.Thing":
		return encode(map[string]any{
			"attributes": map[string]any{"answer": 42, "given": req.Inputs}, "notes": []string{req.Operation + " is done"},
		}), nil
	}
	o := orders(req)
	began := time.Now()
	emit(plugin.Event{Step: &plugin.Step{ID: "1", Name: "RUN make", Group: "app:v1", Started: &began}})
	emit(plugin.Event{Log: &plugin.Log{Step: "1", Stream: 1, Data: []byte("making\n"), At: began}})
	emit(plugin.Event{Note: &plugin.Note{Level: "warning", Text: "the disk is nearly full"}})
	if o["READY"] != "" {
		if err := os.WriteFile(o["READY"], nil, 0o600); err != nil {
			return nil, err
		}
	}
	ended := began.Add(1500 * time.Millisecond)
	emit(plugin.Event{Step: &plugin.Step{ID: "1", Name: "RUN make", Group: "app:v1", Started: &began, Completed: &ended}})
	switch do := o["DO"]; do {
	case "ok":
		return encode(scriptedResult(false)), nil
	case "partial":
		return encode(scriptedResult(true)), fault.New(fault.BuildFailed, "1 of 2 images failed: localhost:5000/app:v2: RUN make: exit code 2").
			WithHint("read what make says")
	case "echo":
		return encode(req), nil
	case "hang":
		<-ctx.Done()
		return nil, fault.New(fault.Cancelled, "the build was cancelled")
	case "deaf": // it hears, and goes on
		<-ctx.Done()
		if err := os.WriteFile(o["HEARD"], nil, 0o600); err != nil {
			panic(err)
		}
		select {}
	case "crash":
		os.Exit(7)
	case "panic":
		panic("a defect")
	default:
		return nil, scriptedFault(do)
	}
	return nil, nil
}

func scriptedFault(do string) error {
	f := fault.New(fault.Kind(do), "push localhost:5000/app:v1: %s", do).WithHint("a hint for %s", do)
	if f.Kind == fault.Invalid {
		f.Problems = []fault.Problem{{Pointer: "/target/registry/url", Message: "is wrong", Hint: "mend it"}, {Message: "all of it"}}
	}
	return f
}

func scriptedResult(partial bool) result.Result {
	r := result.Result{
		Engine: "managed", Source: result.SourceResult{URL: "https://git.example.com/app.git", Commit: "0123456789012345678901234567890123456789"},
		Times: result.Times{Fetch: 0.1, Build: 1.5, Push: 0.2, Total: 1.8},
		Images: []result.ImageResult{{
			Ref: "localhost:5000/app:v1", Digest: digestA, PinnedRef: "localhost:5000/app@" + digestA,
			Platforms: []result.PlatformResult{{Platform: "linux/amd64", Digest: digestA, Size: 2_150_000}},
			Bases:     []result.BaseResult{{From: "alpine", Ref: "docker.io/library/alpine:latest", Digest: digestB}},
			Times:     result.Times{Build: 1.5, Push: 0.2, Total: 1.7},
		}, {
			Ref: "localhost:5000/app:v2", Digest: digestB, PinnedRef: "localhost:5000/app@" + digestB,
			Platforms: []result.PlatformResult{
				{Platform: "linux/amd64", Digest: digestA, Size: 2_150_000}, {Platform: "linux/arm/v7", Digest: digestB, Size: 950},
			},
		}},
	}
	if partial {
		r.Images[1] = result.ImageResult{Ref: "localhost:5000/app:v2", Error: &result.ErrorResult{
			Kind: fault.BuildFailed, Message: "RUN make: exit code 2\nlast lines\nof output",
		}}
	}
	return r
}

func scriptedPlan() result.Plan {
	return result.Plan{
		Source: result.PlanSource{URL: "https://git.example.com/app.git", Commit: "0123456789012345678901234567890123456789", Dockerfile: "docker/Dockerfile"},
		Engine: "managed",
		Images: []result.PlanImage{{
			Ref: "localhost:5000/app:v1", Platforms: []string{"linux/amd64", "linux/arm/v7"}, Push: result.PushAllowed,
			Bases: []result.PlanBase{
				{From: "alpine", Ref: "my/alpine:1", Digest: digestA, Replaced: true},
				{From: "golang:1.26", Ref: "docker.io/library/golang:1.26", Digest: digestB},
				{From: "scratch"},
			},
		}, {Ref: "localhost:5000/app:v2", Platforms: []string{"linux/amd64"}, Stage: "slim", Push: result.PushAllowed}},
	}
}

// scriptedDoctor finds an engine unless one at unix:///nowhere is asked for. It may mend unless one at unix:///denied is.
func scriptedDoctor(req plugin.Request) (json.RawMessage, error) {
	var settings result.Settings
	if err := json.Unmarshal(req.Settings, &settings); err != nil {
		panic(err)
	}
	found := settings.BuildKitHost != "unix:///nowhere"
	d := result.Doctor{
		Engines: []result.EngineReport{
			{Name: "buildkit", Detail: "BUILDKIT_HOST is not set", Fix: "export BUILDKIT_HOST=unix:///run/buildkit/buildkitd.sock"},
			{Name: "managed", Available: found, Version: "v0.33.1", Platforms: []result.PlatformReport{
				{Platform: "linux/amd64", How: result.Native}, {Platform: "linux/386", How: result.Native},
				{Platform: "linux/arm64", How: result.Emulated}, {Platform: "linux/s390x", How: result.None},
			}},
		},
		Checks:  []result.Check{{Name: "git", OK: true, Detail: "2.39.5"}, {Name: "newuidmap", Detail: "it is missing", Fix: "sudo apt-get install uidmap"}},
		Managed: result.ManagedReport{Running: true, StateDir: "/var/lib/image-builder", DiskBytes: 1_234_567, CapBytes: 20_000_000_000},
	}
	var inputs struct{ Fix bool }
	if err := json.Unmarshal(req.Inputs, &inputs); err != nil {
		panic(err)
	}
	if inputs.Fix && settings.BuildKitHost == "unix:///denied" {
		return nil, fault.New(fault.Denied, "set up emulation: register qemu-s390x: permission denied").WithHint("sudo image-builder doctor --fix")
	}
	if inputs.Fix {
		d.Checks = append(d.Checks, result.Check{Name: "emulation", OK: true, Detail: "registered just now: qemu-s390x"})
	}
	return encode(d), nil
}

func encode(v any) json.RawMessage {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return raw
}
