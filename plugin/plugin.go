// Package plugin is the public contract between a host (the command line, the REST worker, the TOSCA
// host) and an executable that performs lifecycle operations of nodes. Anyone can write another plugin:
// implement [Plugin], call [Serve] in main, and name the executable image-builder-plugin-SOMETHING.
//
// Host and plugin speak protobuf over hashicorp/go-plugin's gRPC with AutoMTLS; that never shows here.
// The package conformance holds the tests that every plugin has to pass.
package plugin

import (
	"context"
	"encoding/json"

	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
)

// Plugin performs operations of node types. All methods may be called concurrently.
type Plugin interface {
	// Describe says what the plugin can do. It has no side effects and is quick.
	Describe(ctx context.Context) (Description, error)

	// Plan says what Execute would do. It changes nothing that anyone else could see.
	Plan(ctx context.Context, req Request) (json.RawMessage, error)

	// Execute performs the operation, telling emit what goes on, and returns the operation's result.
	// On failure the result may still be set: it then tells what was done nevertheless.
	// Execute ends soon after ctx does and has cleaned up by then.
	Execute(ctx context.Context, req Request, emit Sink) (json.RawMessage, error)
}

// Request asks for one operation of a node type.
type Request struct {
	NodeType  string          `json:"node_type"` // as Description names it
	Operation string          `json:"operation"` // as Description names it
	Inputs    json.RawMessage `json:"inputs"`    // matches the operation's Inputs schema
	Settings  json.RawMessage `json:"settings"`  // how to do it (which engine, …), apart from what to do; may be null
	WorkDir   string          `json:"work_dir"`  // what relative paths in inputs are relative to
}

// Description is what a plugin can do.
type Description struct {
	Name    string     `json:"name"`
	Version string     `json:"version"`
	Nodes   []NodeType `json:"nodes"`
}

// NodeType is a type of node and its operations.
type NodeType struct {
	Name       string      `json:"name"` // as TOSCA names it: imagebuilder.nodes.Image
	Operations []Operation `json:"operations"`
}

// Operation is one thing that can be done to a node.
type Operation struct {
	Name        string          `json:"name"`
	Description string          `json:"description"`
	Inputs      json.RawMessage `json:"inputs"`   // JSON Schema, draft-07
	CanPlan     bool            `json:"can_plan"` // whether Plan knows it
}

// Events and errors are those that all of image-builder uses.
type (
	// Event is something that happened while an operation ran.
	Event = event.Event
	// Step is the state of one step of an operation.
	Step = event.Step
	// Progress is a countable part of a step.
	Progress = event.Progress
	// Log is output of a step.
	Log = event.Log
	// Note is a sentence for people.
	Note = event.Note
	// Sink takes events; several goroutines may call it at once.
	Sink = event.Sink
	// Error is a failure with its kind; return one from Plan and Execute.
	Error = fault.Error
	// Problem is one thing that is wrong with the inputs.
	Problem = fault.Problem
	// Kind tells what a failure means for the one who asked.
	Kind = fault.Kind
)

// The kinds of failure.
const (
	Invalid     = fault.Invalid
	Denied      = fault.Denied
	NotFound    = fault.NotFound
	BuildFailed = fault.BuildFailed
	Cancelled   = fault.Cancelled
	Unavailable = fault.Unavailable
	Internal    = fault.Internal
)
