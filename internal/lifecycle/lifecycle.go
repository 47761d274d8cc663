// Package lifecycle performs the operations of our node types: it takes a build_params document and
// leaves verified images in a registry.
//
//	create: source.Fetch → dockerfile.Override → engine.Build → registry.Inspect → registry.Tag → result
//	delete: registry.Inspect → registry.DeleteTag, for tags that name images of the owner
//
// It is the plugin's inside. Parts that do the work (git, BuildKit, registries) have packages of
// their own; what stands here is the order in which they act and what is checked in between.
package lifecycle

import (
	"context"
	"encoding/json"
	"errors"
	"runtime"
	"time"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/emulation"
	"imagebuilder/internal/engine"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
	"imagebuilder/plugin"
	"imagebuilder/schemas"
)

// Node types and operations that the plugin performs.
const (
	ImageNode  = "imagebuilder.nodes.Image"
	EngineNode = "imagebuilder.nodes.Engine"

	Create     = "create"
	Delete     = "delete"
	Verify     = "verify"
	PruneCache = "prune_cache"
	Doctor     = "doctor"
)

// Plugin performs the operations. Its zero value is not ready; New makes one.
type Plugin struct {
	version string
	now     func() time.Time
	machine emulation.Machine // that engines on this machine run on
	turns   *engine.Turns     // at the managed engine, of all requests
}

var _ plugin.Plugin = (*Plugin)(nil)

// New makes the plugin. version is shown by Describe.
func New(version string) *Plugin {
	return &Plugin{version: version, now: time.Now, machine: emulation.ThisMachine(), turns: engine.NewTurns(runtime.GOMAXPROCS(0))}
}

// Describe lists node types and operations.
func (p *Plugin) Describe(context.Context) (plugin.Description, error) {
	return plugin.Description{
		Name: "image-builder-plugin", Version: p.version,
		Nodes: []plugin.NodeType{
			{Name: ImageNode, Operations: []plugin.Operation{{
				Name: Create, CanPlan: true, Inputs: schemas.BuildParams(),
				Description: "build and push the images of a build_params document",
			}, {
				Name: Delete, Inputs: tagInputs(removalInput),
				Description: "remove the tags of a target that name images of the owner that the settings name",
			}, {
				Name: Verify, Inputs: tagInputs(nil),
				Description: "check that the tags of a target name images of the owner that the settings name",
			}, {
				Name: PruneCache, Inputs: json.RawMessage(pruneInputs),
				Description: "remove build caches of a build_params document from its registry",
			}}},
			{Name: EngineNode, Operations: []plugin.Operation{{
				Name: Doctor, Inputs: json.RawMessage(doctorInputs),
				Description: "say what this machine can build, and with fix set emulation up before",
			}}},
		},
	}, nil
}

// Plan says what Execute would do.
func (p *Plugin) Plan(ctx context.Context, req plugin.Request) (json.RawMessage, error) {
	if req.NodeType != ImageNode || req.Operation != Create {
		return nil, unknownOperation(req)
	}
	return p.image(ctx, req, req.Inputs, func(plugin.Event) {}, func(ctx context.Context, j *job) (any, error) { return j.plan(ctx) })
}

// Execute performs an operation.
func (p *Plugin) Execute(ctx context.Context, req plugin.Request, emit plugin.Sink) (json.RawMessage, error) {
	switch {
	case req.NodeType == ImageNode && req.Operation == Create:
		return p.image(ctx, req, req.Inputs, emit, func(ctx context.Context, j *job) (any, error) { return j.create(ctx) })
	case req.NodeType == ImageNode && req.Operation == Delete:
		return p.tags(ctx, req, emit, func(ctx context.Context, j *job, which tags) (any, error) { return j.deleteTags(ctx, which) })
	case req.NodeType == ImageNode && req.Operation == Verify:
		return p.tags(ctx, req, emit, func(ctx context.Context, j *job, _ tags) (any, error) { return j.verifyTags(ctx) })
	case req.NodeType == ImageNode && req.Operation == PruneCache:
		which, err := decodePrune(req.Inputs)
		if err != nil {
			return nil, err
		}
		return p.image(ctx, req, which.Document, emit, func(ctx context.Context, j *job) (any, error) { return j.pruneCache(ctx, which) })
	case req.NodeType == EngineNode && req.Operation == Doctor:
		return p.doctor(ctx, req)
	default:
		return nil, unknownOperation(req)
	}
}

// image runs an operation on an image node, within its time and a folder that is gone afterwards.
func (p *Plugin) image(ctx context.Context, req plugin.Request, document json.RawMessage, emit plugin.Sink,
	operate func(context.Context, *job) (any, error)) (json.RawMessage, error) {
	settings, err := decodeSettings(req)
	if err != nil {
		return nil, err
	}
	doc, err := buildparams.Decode(document, "build_params")
	if err != nil {
		return nil, err
	}
	if limit := time.Duration(doc.Options.Timeout); limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit,
			fault.New(fault.BuildFailed, "timeout: it took longer than the %s of options.timeout", limit))
		defer cancel()
	}
	j, err := newJob(doc, settings, req.WorkDir, emit, p.now)
	if err != nil {
		return nil, err
	}
	j.machine, j.turns = p.machine, p.turns
	defer j.close()
	ctx, release := j.lease.hold(ctx)
	defer release()
	out, err := operate(ctx, j)
	return encode(out, ended(ctx, err))
}

// ended prefers the reason why a context ended to what fell over because of it.
func ended(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	var f *fault.Error
	if cause := context.Cause(ctx); errors.As(cause, &f) {
		return f
	}
	return fault.New(fault.Cancelled, "cancelled")
}

func encode(out any, err error) (json.RawMessage, error) {
	if out == nil {
		return nil, err
	}
	data, bad := json.Marshal(out)
	if bad != nil {
		return nil, fault.New(fault.Internal, "encode the result: %w", bad)
	}
	return data, err
}

func decodeSettings(req plugin.Request) (result.Settings, error) {
	var s result.Settings
	if len(req.Settings) > 0 {
		if err := json.Unmarshal(req.Settings, &s); err != nil {
			return s, fault.New(fault.Invalid, "settings: %w", err)
		}
	}
	return s, nil
}

func unknownOperation(req plugin.Request) error {
	return fault.New(fault.Invalid, "operation %q of node type %q is not known here", req.Operation, req.NodeType)
}
