package tosca

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"imagebuilder/internal/fault"
)

// Runner performs operations of nodes that plugins claim. It is called by several goroutines at once.
type Runner interface {
	// Check says what is wrong with a job's inputs, as an error of kind Invalid with JSON pointers into them. It starts
	// nothing.
	Check(job Job) error

	// Run performs an operation and returns what it did. Inputs are JSON with secrets in it. After an error the result
	// may tell what was done nevertheless.
	Run(ctx context.Context, job Job) (Result, error)
}

// Job is one operation of one node.
type Job struct {
	Node      string // its name in the template
	Type      string // the plugin's node type
	Operation string // create or delete
	Inputs    json.RawMessage
}

// Result is what an operation did.
type Result struct {
	Attributes map[string]any // the node's, as encoding/json decodes them
	Notes      []string       // for people
}

// DefaultWorkers is how many nodes are worked on at once. An engine shares its processors among all builds by itself; what
// runs beside each other here hides the waiting of one, for git and registries, behind the work of another.
const DefaultWorkers = 4

// Deployment is what is, or will be, deployed from a folder.
type Deployment struct {
	Folder  string // where it was started, absolute; its state lives below
	Runner  Runner
	Workers int            // nodes at once; 0 is DefaultWorkers
	Note    func(s string) // told what goes on; may be nil
}

// Report is what a deployment has come to.
type Report struct {
	Status  Status         `json:"status"`
	Nodes   []NodeReport   `json:"nodes"`
	Outputs map[string]any `json:"outputs,omitempty"`
}

// NodeReport is what a node has come to.
type NodeReport struct {
	Name       string         `json:"name"`
	Type       string         `json:"type"`
	State      string         `json:"state"`             // created, resumed, failed, cancelled, removed, left (no longer in the template)
	Blocked    string         `json:"blocked,omitempty"` // the node whose failure kept this one from beginning
	Attributes map[string]any `json:"attributes,omitempty"`
	Notes      []string       `json:"notes,omitempty"`
	Error      string         `json:"error,omitempty"`
}

func (d *Deployment) note(format string, args ...any) {
	if d.Note != nil {
		d.Note(fmt.Sprintf(format, args...))
	}
}

func (d *Deployment) workers() int {
	if d.Workers <= 0 {
		return DefaultWorkers
	}
	return d.Workers
}

// Deploy creates every node, those that are required first. A deployment that was interrupted, or that failed, goes on with
// what is missing; one that was complete is done again, which changes nothing where nothing has changed.
//
// inputs is the path of the file that the inputs were read from, "" where there is none to read them from again.
// The report tells what is there also when there is an error, whose kind is that of the first node that failed.
func (d *Deployment) Deploy(ctx context.Context, top *Topology, inputs string) (*Report, error) {
	if top.partial {
		return nil, fault.New(fault.Internal, "deploy %s without inputs", top.template.file)
	}
	if err := top.Check(d.Runner.Check); err != nil {
		return nil, err
	}
	store, err := openStore(d.Folder)
	if err != nil {
		return nil, err
	}
	defer store.close()
	st, err := loadState(d.Folder)
	if err != nil {
		return nil, err
	}
	run, err := d.newRun(store, st, top)
	if err != nil {
		return nil, err
	}
	if err := run.begin(inputs); err != nil {
		return nil, err
	}
	var tasks []task
	heights := top.heights()
	for _, n := range top.nodes {
		tasks = append(tasks, task{n.name, requires(n), heights[n.name]})
	}
	outcomes := schedule(ctx, tasks, d.workers(), run.create)
	return run.finish(ctx, outcomes)
}

func requires(n *Node) []string {
	var names []string
	for _, r := range n.requirements {
		if !slices.Contains(names, r.node.name) {
			names = append(names, r.node.name)
		}
	}
	return names
}

// failure is the error of all nodes together: the kind is that of the first one that failed.
func failure(ctx context.Context, doing string, order []string, outcomes map[string]outcome) error {
	var failed []*fault.Error
	var names, lines, blocked []string
	for _, name := range order {
		o := outcomes[name]
		switch {
		case o.err != nil && fault.KindOf(o.err) != fault.Cancelled:
			f := fault.As(o.err)
			failed, names = append(failed, f), append(names, name)
			lines = append(lines, name+": "+f.Message)
		case o.blocked != "":
			blocked = append(blocked, name)
		}
	}
	tail := ""
	if len(blocked) > 0 {
		tail = fmt.Sprintf("\nnot begun, as it needs what failed: %s", strings.Join(blocked, ", "))
	}
	switch {
	case len(failed) == 0 && ctx.Err() != nil:
		return fault.New(fault.Cancelled, "cancelled")
	case len(failed) == 0:
		for _, name := range order {
			if o := outcomes[name]; o.err != nil {
				return o.err
			}
		}
		return nil
	case len(failed) == 1:
		f := failed[0]
		out := fault.New(f.Kind, "%s %s: %s%s", doing, names[0], f.Message, tail)
		out.Hint, out.Problems = f.Hint, f.Problems
		return out
	}
	out := fault.New(failed[0].Kind, "%s: %d nodes failed\n%s%s", doing, len(failed), strings.Join(lines, "\n"), tail)
	for i, f := range failed {
		for _, p := range f.Problems {
			p.Message = names[i] + ": " + p.Message
			out.Problems = append(out.Problems, p)
		}
	}
	out.Hint = failed[0].Hint
	return out
}
