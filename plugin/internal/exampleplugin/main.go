// Command exampleplugin is the plugin that the tests of the package plugin torment: one node type whose
// operations do all that a plugin may do, and much that it may not.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"imagebuilder/plugin"
)

const nodeType = "example.nodes.Echo"

// inputs are those of all operations, each of which uses some.
type inputs struct {
	Text     string          `json:"text"`
	Kind     plugin.Kind     `json:"kind"`      // fail: of the error
	Result   json.RawMessage `json:"result"`    // fail: next to the error
	Signal   int             `json:"signal"`    // die: 0 exits with 7
	Events   int             `json:"events"`    // flood
	LogBytes int             `json:"log_bytes"` // flood: in one event
	Deaf     string          `json:"deaf"`      // slow: how long it ignores the cancelling, as a duration
	Folder   string          `json:"folder"`    // slow: made while it runs
}

const schema = `{"$schema": "http://json-schema.org/draft-07/schema#", "type": "object",
  "properties": {"text": {"type": "string"}, "kind": {"type": "string"}, "result": {}, "signal": {"type": "integer"},
    "events": {"type": "integer"}, "log_bytes": {"type": "integer"}, "deaf": {"type": "string"}, "folder": {"type": "string"}},
  "additionalProperties": false}`

type example struct {
	operations map[string]func(context.Context, inputs, plugin.Sink) (json.RawMessage, error)
}

func main() {
	plugin.Serve(example{map[string]func(context.Context, inputs, plugin.Sink) (json.RawMessage, error){
		"echo": echo, "slow": slow, "fail": fail, "panic": boom, "die": die, "flood": flood,
	}})
}

func (e example) Describe(context.Context) (plugin.Description, error) {
	n := plugin.NodeType{Name: nodeType}
	for _, name := range []string{"echo", "slow", "fail", "panic", "die", "flood"} {
		n.Operations = append(n.Operations, plugin.Operation{
			Name: name, Description: "For tests: " + name + ".", Inputs: json.RawMessage(schema), CanPlan: name == "echo",
		})
	}
	return plugin.Description{Name: "example", Version: "1.0.0", Nodes: []plugin.NodeType{n}}, nil
}

func (e example) Plan(_ context.Context, req plugin.Request) (json.RawMessage, error) {
	in, err := e.check(req)
	if err != nil {
		return nil, err
	}
	if req.Operation != "echo" {
		return nil, &plugin.Error{Kind: plugin.Invalid, Message: "operation " + req.Operation + " cannot be planned"}
	}
	return json.Marshal(map[string]string{"would_say": in.Text})
}

func (e example) Execute(ctx context.Context, req plugin.Request, emit plugin.Sink) (json.RawMessage, error) {
	in, err := e.check(req)
	if err != nil {
		return nil, err
	}
	return e.operations[req.Operation](ctx, in, emit)
}

func (e example) check(req plugin.Request) (in inputs, err error) {
	if _, ok := e.operations[req.Operation]; !ok || req.NodeType != nodeType {
		return in, &plugin.Error{
			Kind:    plugin.Invalid,
			Message: fmt.Sprintf("no operation %q on nodes of type %q", req.Operation, req.NodeType),
		}
	}
	d := json.NewDecoder(strings.NewReader(string(req.Inputs)))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return in, &plugin.Error{
			Kind: plugin.Invalid, Message: "inputs of " + req.Operation,
			Problems: []plugin.Problem{{Pointer: "", Message: err.Error(), Hint: "see the schema"}},
		}
	}
	return in, nil
}

func echo(_ context.Context, in inputs, emit plugin.Sink) (json.RawMessage, error) {
	end := emit.Begin("say", "say it", time.Now)
	emit(plugin.Event{Log: &plugin.Log{Step: "say", Stream: 1, Data: []byte(in.Text + "\n"), At: time.Now()}})
	emit(plugin.Event{Progress: &plugin.Progress{
		ID: "p", Step: "say", Name: "bytes", Current: int64(len(in.Text)), Total: int64(len(in.Text)), At: time.Now(),
	}})
	emit.Note("info", "said it")
	end(nil)
	return json.Marshal(map[string]string{"said": in.Text})
}

// slow runs until it is cancelled, and then tells what it did nevertheless.
func slow(ctx context.Context, in inputs, emit plugin.Sink) (json.RawMessage, error) {
	folder, err := os.MkdirTemp(in.Folder, "slow-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(folder)
	end := emit.Begin("wait", folder, time.Now)
	<-ctx.Done()
	if deaf, err := time.ParseDuration(in.Deaf); err == nil {
		time.Sleep(deaf)
	}
	end(ctx.Err())
	return json.RawMessage(`{"half": "done"}`), fmt.Errorf("waiting: %w", ctx.Err())
}

func fail(_ context.Context, in inputs, _ plugin.Sink) (json.RawMessage, error) {
	return in.Result, &plugin.Error{
		Kind: in.Kind, Message: in.Text, Hint: "do it better",
		Problems: []plugin.Problem{{Pointer: "/text", Message: "is bad", Hint: "write another"}},
	}
}

func boom(_ context.Context, in inputs, _ plugin.Sink) (json.RawMessage, error) {
	for i := range 50 {
		fmt.Fprintln(os.Stderr, "line", i)
	}
	panic(in.Text)
}

func die(_ context.Context, in inputs, emit plugin.Sink) (json.RawMessage, error) {
	emit.Note("info", "dying")
	if in.Signal == 0 {
		os.Exit(7)
	}
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		return nil, err
	}
	return nil, self.Signal(syscall.Signal(in.Signal))
}

// flood emits more than anyone wants.
func flood(ctx context.Context, in inputs, emit plugin.Sink) (json.RawMessage, error) {
	if in.LogBytes > 0 {
		data := make([]byte, in.LogBytes)
		for i := range data {
			data[i] = byte(i * 7 >> 8)
		}
		emit(plugin.Event{Log: &plugin.Log{Step: "flood", Stream: 2, Data: data, At: time.Now()}})
	}
	for i := 0; i < in.Events && ctx.Err() == nil; i++ {
		emit(plugin.Event{Progress: &plugin.Progress{ID: "p", Step: "flood", Current: int64(i), At: time.Now()}})
	}
	return json.Marshal(in.Events)
}
