package cli

import (
	"context"
	"encoding/json"
	"strings"
	"sync"

	"imagebuilder/internal/cli/progress"
	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/imagenode"
	"imagebuilder/plugin"
	"imagebuilder/tosca"
)

// nodeRunner performs the operations of a template's nodes: all of them in one plugin process for each of the plugin's
// node types, which is one process with the usual plugin.
type nodeRunner struct {
	app      *app
	explicit string // the plugin's executable; "" looks for it
	settings json.RawMessage
	folder   string // where the deployment was started
	display  *progress.Display
	grouped  bool // steps are shown with their node's name

	ahead func() (*plugin.Client, error) // the plugin of image nodes, where it is being started already; nil where it is not

	mu      sync.Mutex
	clients map[string]*startedPlugin
}

// startedPlugin is a plugin that is started once, by whoever needs it first.
type startedPlugin struct {
	once   sync.Once
	client *plugin.Client
	err    error
}

// Check says what is wrong with the inputs of an image node's operation.
func (r *nodeRunner) Check(job tosca.Job) error {
	if job.Type != imagenode.NodeType {
		return nil // only its plugin knows
	}
	_, err := imagenode.Request(r.operation(job))
	return err
}

func (r *nodeRunner) operation(job tosca.Job) imagenode.Operation {
	return imagenode.Operation{
		Node: job.Node, NodeType: job.Type, Name: job.Operation, Folder: r.folder, Inputs: job.Inputs, Settings: r.settings,
	}
}

// Run has a plugin perform an operation. What goes on is shown, and written to a log file of the operation.
func (r *nodeRunner) Run(ctx context.Context, job tosca.Job) (tosca.Result, error) {
	op := r.operation(job)
	request := plugin.Request{NodeType: job.Type, Operation: job.Operation, Inputs: job.Inputs, Settings: r.settings, WorkDir: r.folder}
	if job.Type == imagenode.NodeType {
		var err error
		if request, err = imagenode.Request(op); err != nil {
			return tosca.Result{}, err
		}
	}
	client, err := r.plugin(ctx, request)
	if err != nil {
		return tosca.Result{}, err
	}
	log := openJournal(op)
	raw, err := client.Execute(ctx, request, func(ev event.Event) {
		log.display.Emit(ev)
		r.display.Emit(r.ofNode(ev, job.Node))
	})
	log.close(err)
	return nodeResult(op, raw, log.path, err)
}

// nodeResult is what the plugin's answer means for a node.
func nodeResult(op imagenode.Operation, raw json.RawMessage, log string, err error) (tosca.Result, error) {
	if op.NodeType != imagenode.NodeType {
		var answer struct {
			Attributes map[string]any `json:"attributes"`
			Notes      []string       `json:"notes"`
		}
		if err == nil && len(raw) > 0 && json.Unmarshal(raw, &answer) != nil {
			err = fault.New(fault.Internal, "the answer to %s of %s is no JSON object with attributes", op.Name, op.Node)
		}
		return tosca.Result{Attributes: answer.Attributes, Notes: answer.Notes}, err
	}
	out := tosca.Result{Notes: imagenode.Notes(op, raw)}
	if err != nil {
		return out, err
	}
	out.Attributes, err = imagenode.Attributes(op, raw)
	if _, built := out.Attributes["build_log"]; built {
		out.Attributes["build_log"] = log
	}
	return out, err
}

// plugin is the running plugin that performs a request.
func (r *nodeRunner) plugin(ctx context.Context, request plugin.Request) (*plugin.Client, error) {
	r.mu.Lock()
	started := r.clients[request.NodeType]
	if started == nil {
		started = &startedPlugin{}
		if r.clients == nil {
			r.clients = map[string]*startedPlugin{}
		}
		r.clients[request.NodeType] = started
	}
	r.mu.Unlock()
	started.once.Do(func() {
		if r.ahead != nil && request.NodeType == imagenode.NodeType {
			started.client, started.err = r.ahead()
		} else {
			started.client, started.err = r.app.startPlugin(ctx, r.explicit, request.NodeType, request.Operation)
		}
		if f := fault.As(started.err); started.err != nil && f.Kind == fault.Invalid {
			started.err = f.WithHint("%s", strings.TrimPrefix(f.Hint+"; what no plugin performs is for opera", "; "))
		}
	})
	return started.client, started.err
}

func (r *nodeRunner) close() {
	for _, started := range r.clients {
		if started.client != nil {
			r.app.closePlugin(started.client)
		}
	}
}

// ofNode is an event as one of a node: operations that run side by side have steps of the same names.
func (r *nodeRunner) ofNode(ev event.Event, node string) event.Event {
	if !r.grouped {
		return ev
	}
	step := func(id string) string { return node + "/" + id }
	switch {
	case ev.Step != nil:
		s := *ev.Step
		s.ID, s.Group = step(s.ID), strings.TrimSpace(node+" "+s.Group)
		ev.Step = &s
	case ev.Progress != nil:
		p := *ev.Progress
		if strings.HasPrefix(p.ID, p.Step) {
			p.ID = step(p.ID)
		}
		p.Step = step(p.Step)
		ev.Progress = &p
	case ev.Log != nil:
		l := *ev.Log
		l.Step = step(l.Step)
		ev.Log = &l
	case ev.Note != nil:
		n := *ev.Note
		n.Text = node + ": " + n.Text
		ev.Note = &n
	}
	return ev
}
