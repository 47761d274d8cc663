// Package conformance holds the tests that every plugin of image-builder has to pass. They run the
// executable as a host does and look at what it does: what it says of itself, how it answers nonsense,
// how it cancels, and whether it is gone with everything it made when its host is.
//
// They do not look at whether what the plugin does is any good; its own tests do that.
package conformance

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/xeipuuv/gojsonschema"

	"imagebuilder/internal/fault"
	"imagebuilder/plugin"
)

const (
	// defaultCancel is what the contract allows an operation from its cancelling to its end.
	defaultCancel = 2 * time.Second

	// goneTime is how soon after its host's death a plugin has to be gone: the clean-up that Serve
	// allows and what the system needs, on a busy machine too.
	goneTime = 5 * time.Second

	// patience bounds waiting for what has no time in the contract.
	patience = time.Minute
)

// Config says what to ask of the plugin.
type Config struct {
	// Samples are requests with what has to come of them; at least one per operation is a good idea.
	// They run one after the other, and then those that succeed all at once.
	Samples []Sample

	// Slow is a request that would run for a minute or longer and that emits an event once it is
	// under way. It is cancelled, and its process or its host is killed.
	Slow plugin.Request

	// CancelWithin is how long Slow may take to end after it was cancelled. Default, and the
	// contract: 2 s. More is for machines that are busy with something else.
	CancelWithin time.Duration

	// Env is added to the plugin's environment, as in plugin.Options.
	Env []string
}

// Sample is a request with what has to come of it.
type Sample struct {
	Name    string
	Request plugin.Request
	Fails   plugin.Kind // the kind of the error; "" if it succeeds
	Pointer string      // if Fails is Invalid: the JSON pointer of one of the problems
}

// suite is one run.
type suite struct {
	Config
	path string
}

// Run tests the plugin executable at path. Each rule is a subtest. The test binary runs itself again
// to be a host that is killed; that needs nothing of the caller.
func Run(t *testing.T, path string, cases Config) {
	t.Helper()
	require.NotEmpty(t, cases.Slow.Operation, "Config.Slow is needed: what is never cancelled is not tested")
	if cases.CancelWithin == 0 {
		cases.CancelWithin = defaultCancel
	}
	s := &suite{Config: cases, path: path}
	t.Run("describes itself", s.describesItself)
	t.Run("refuses what it does not know", s.refusesUnknown)
	t.Run("refuses inputs that are no object", s.refusesNonObjects)
	for _, sample := range cases.Samples {
		t.Run("plans "+sample.Name, func(t *testing.T) { s.plans(t, sample) })
		t.Run("executes "+sample.Name, func(t *testing.T) { s.executes(t, sample) })
	}
	t.Run("executes all at once", s.executesAllAtOnce)
	t.Run("cancels", s.cancels)
	t.Run("is closed while it works", s.isClosed)
	t.Run("is terminated while it works", s.isTerminated)
	t.Run("ignores an interrupt", s.ignoresInterrupt)
	t.Run("goes with a killed host", s.goesWithHost)
	t.Run("says what it is when started by hand", s.startedByHand)
}

// start starts the plugin and closes it when the test ends; nothing may be left of it then.
func (s *suite) start(t *testing.T) *plugin.Client {
	t.Helper()
	temp := shortTemp(t)
	c, err := plugin.Start(t.Context(), s.path, plugin.Options{
		Env: s.Env, TempDir: temp, Grace: s.CancelWithin + patience, // so that what is late is measured, not killed
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, c.Close())
		require.True(t, gone(c.PID()), "the process has ended")
		requireEmpty(t, temp)
	})
	return c
}

func (s *suite) describesItself(t *testing.T) {
	c := s.start(t)
	d, err := c.Describe(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, d.Name, "the plugin's name")
	require.NotEmpty(t, d.Version, "the plugin's version")
	require.NotEmpty(t, d.Nodes, "node types")
	nodes := map[string]bool{}
	for _, n := range d.Nodes {
		require.NotEmpty(t, n.Name, "a node type's name")
		require.False(t, nodes[n.Name], "node type %s is there twice", n.Name)
		nodes[n.Name] = true
		require.NotEmpty(t, n.Operations, "operations of %s", n.Name)
		operations := map[string]bool{}
		for _, o := range n.Operations {
			require.NotEmpty(t, o.Name, "an operation's name in %s", n.Name)
			require.False(t, operations[o.Name], "operation %s of %s is there twice", o.Name, n.Name)
			operations[o.Name] = true
			require.NotEmpty(t, o.Description, "description of %s of %s", o.Name, n.Name)
			compile(t, o)
		}
	}
	again, err := c.Describe(t.Context())
	require.NoError(t, err)
	require.Equal(t, d, again, "a second description")
}

// compile compiles the schema of an operation's inputs, which has to be a schema of draft-07 itself.
func compile(t *testing.T, o plugin.Operation) *gojsonschema.Schema {
	t.Helper()
	var head struct {
		Schema string `json:"$schema"`
	}
	require.NoError(t, json.Unmarshal(o.Inputs, &head), "inputs of %s are a JSON object", o.Name)
	if head.Schema != "" {
		require.Contains(t, head.Schema, "draft-07", "the $schema of %s", o.Name)
	}
	loader := gojsonschema.NewSchemaLoader()
	loader.Draft, loader.AutoDetect, loader.Validate = gojsonschema.Draft7, false, true
	schema, err := loader.Compile(gojsonschema.NewBytesLoader(o.Inputs))
	require.NoError(t, err, "the schema of the inputs of %s", o.Name)
	return schema
}

// eachOperation calls f with a request for every operation there is, without inputs.
func eachOperation(t *testing.T, c *plugin.Client, f func(plugin.Request, plugin.Operation)) {
	t.Helper()
	d, err := c.Describe(t.Context())
	require.NoError(t, err)
	for _, n := range d.Nodes {
		for _, o := range n.Operations {
			f(plugin.Request{NodeType: n.Name, Operation: o.Name, WorkDir: t.TempDir()}, o)
		}
	}
}

func (s *suite) refusesUnknown(t *testing.T) {
	c := s.start(t)
	eachOperation(t, c, func(known plugin.Request, _ plugin.Operation) {
		known.Inputs = json.RawMessage(`{}`)
		node, operation := known, known
		node.NodeType = "no.such.nodes.Type"
		operation.Operation = "no_such_operation"
		for _, req := range []plugin.Request{node, operation, {}} {
			requireInvalid(t, c, req)
		}
	})
}

func (s *suite) refusesNonObjects(t *testing.T) {
	c := s.start(t)
	eachOperation(t, c, func(req plugin.Request, _ plugin.Operation) {
		for _, inputs := range []string{`[]`, `"text"`, `{"cut": `, ``} {
			req.Inputs = json.RawMessage(inputs)
			problems := requireInvalid(t, c, req)
			require.NotEmpty(t, problems, "problems of %s with inputs %q", req.Operation, inputs)
		}
	})
}

// requireInvalid asks for something that has to be refused before anything is done, and gives the problems.
func requireInvalid(t *testing.T, c *plugin.Client, req plugin.Request) []plugin.Problem {
	t.Helper()
	what := []any{"%q of %q with inputs %q", req.Operation, req.NodeType, req.Inputs}
	_, err := c.Plan(t.Context(), req)
	require.Equal(t, plugin.Invalid, fault.KindOf(err), what...)
	_, err = c.Execute(t.Context(), req, func(plugin.Event) {})
	require.Equal(t, plugin.Invalid, fault.KindOf(err), what...)
	requireGoodError(t, err)
	return fault.As(err).Problems
}

// requireGoodError wants of an error what those who show it rely on.
func requireGoodError(t *testing.T, err error) {
	t.Helper()
	f := fault.As(err)
	require.NotEmpty(t, f.Message, "an error's message")
	require.NotContains(t, f.Message, "goroutine ", "an error's message")
	for _, p := range f.Problems {
		require.NotEmpty(t, p.Message, "a problem's message")
		if p.Pointer != "" {
			require.Equal(t, byte('/'), p.Pointer[0], "JSON pointer %q", p.Pointer)
		}
	}
}

func (s *suite) plans(t *testing.T, sample Sample) {
	c := s.start(t)
	eachOperation(t, c, func(req plugin.Request, o plugin.Operation) {
		if req.NodeType != sample.Request.NodeType || req.Operation != sample.Request.Operation {
			return
		}
		plan, err := c.Plan(t.Context(), sample.Request)
		switch {
		case !o.CanPlan:
			require.Equal(t, plugin.Invalid, fault.KindOf(err), "%s cannot be planned", o.Name)
		case sample.Fails == plugin.Invalid:
			require.Equal(t, plugin.Invalid, fault.KindOf(err))
		case sample.Fails == "":
			require.NoError(t, err)
			require.True(t, json.Valid(plan), "the plan is JSON: %q", plan)
		}
		if sample.Fails == "" {
			result, err := compile(t, o).Validate(gojsonschema.NewBytesLoader(sample.Request.Inputs))
			require.NoError(t, err)
			require.Empty(t, result.Errors(), "inputs that succeed match the operation's schema")
		}
	})
}

func (s *suite) executes(t *testing.T, sample Sample) {
	c := s.start(t)
	var seen events
	result, err := c.Execute(t.Context(), sample.Request, seen.take)
	seen.requireGood(t, err == nil)
	requireOutcome(t, sample, result, err)
}

func requireOutcome(t *testing.T, sample Sample, result json.RawMessage, err error) {
	t.Helper()
	if result != nil {
		require.True(t, json.Valid(result), "the result is JSON: %q", result)
	}
	if sample.Fails == "" {
		require.NoError(t, err)
		require.NotEmpty(t, bytes.TrimSpace(result), "a result")
		return
	}
	require.Equal(t, sample.Fails, fault.KindOf(err), "%v", err)
	requireGoodError(t, err)
	if sample.Pointer != "" {
		var pointers []string
		for _, p := range fault.As(err).Problems {
			pointers = append(pointers, p.Pointer)
		}
		require.Contains(t, pointers, sample.Pointer, "where the problem is")
	}
}
