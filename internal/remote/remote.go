// Package remote performs requests of the plugin on another machine, which is reached by ssh: the server.
//
// This side, the orchestrator, brings the executables of its own version over, where they are not there yet, and runs
// `image-builder perform` on the server. That gets one order on its standard input, and answers with events and an outcome. Nothing
// else is told to the server: no secret is in an argument, a variable or a file. What references in a document stand for is looked
// up here.
//
// The order is followed by signs of life. When they end, whatever the reason, the server cancels what it does.
package remote

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"imagebuilder/internal/fault"
	"imagebuilder/plugin"
)

// Command is the command that a server runs: see Serve.
const Command = "perform"

const (
	// signEvery is how long it is from one sign of life to the next.
	signEvery = 5 * time.Second
	// silence is how long a server waits for one before it cancels: longer than a link is down when it is only moody.
	silence = time.Minute
	// cancelledWithin is how long the server has to end what was cancelled, before the connection is cut.
	cancelledWithin = 20 * time.Second
)

// Server is a machine that requests are performed on.
type Server struct {
	SSH      []string // ssh with its options, and the destination last
	Sudo     bool     // as root, by sudo that asks for no password
	Programs Programs // what is brought there
	Version  string   // of ours
	Flags    []string // for the command on the server
}

// Name is what errors call the server: ssh's destination.
func (s *Server) Name() string { return s.SSH[len(s.SSH)-1] }

// Execute performs a request as plugin.Client does: events come while they happen, and errors are those of the plugin, besides
// those of the connection.
func (s *Server) Execute(ctx context.Context, request plugin.Request, emit plugin.Sink) (json.RawMessage, error) {
	request, err := sealed(request)
	if err != nil {
		return nil, err
	}
	for brought := false; ; brought = true {
		c, err := s.dial(ctx, s.run())
		if err != nil {
			return nil, err
		}
		set, there, err := s.meet(ctx, c)
		switch {
		case err != nil:
			return nil, err
		case there:
			return s.perform(ctx, c, request, emit)
		case brought:
			c.close()
			return nil, fault.New(fault.Unavailable, "%s: the executables that were brought there are not there any more", s.Name())
		}
		c.close()
		end := emit.Begin("bring", fmt.Sprintf("bring image-builder %s to %s", s.Version, s.Name()), time.Now)
		err = s.bring(ctx, set)
		end(err)
		if err != nil {
			return nil, err
		}
	}
}

// perform gives the order and waits for its outcome.
func (s *Server) perform(ctx context.Context, c *connection, request plugin.Request, emit plugin.Sink) (json.RawMessage, error) {
	var first answer
	if err := c.next(&first); err != nil {
		return nil, c.failed(ctx, "start image-builder on %s", s.Name())
	}
	if first.Version != s.Version {
		c.close()
		return nil, fault.New(fault.Invalid, "what was brought to %s is image-builder %s, and this one is %s", s.Name(), first.Version, s.Version).
			WithHint("put the executables of this version into the folder that %s names", ProgramsVariable)
	}
	if err := c.send(order{Request: request, SilenceSeconds: silence.Seconds()}); err != nil {
		return nil, c.failed(ctx, "send the request to %s", s.Name())
	}
	over := make(chan struct{})
	defer close(over)
	go c.live(ctx, over)
	for {
		var a answer
		if err := c.next(&a); err != nil {
			return nil, c.failed(ctx, "the connection to %s was lost", s.Name())
		}
		switch {
		case a.Event != nil:
			emit(*a.Event)
		case a.Outcome != nil:
			c.close()
			if ctx.Err() != nil {
				return nil, fault.New(fault.Cancelled, "cancelled")
			}
			return a.Outcome.Result, a.Outcome.err()
		}
	}
}

// order is what the server is told. It has secrets in it.
type order struct {
	Request        plugin.Request `json:"request"`
	SilenceSeconds float64        `json:"silence_seconds"` // without a sign of life after which it is cancelled
}

// answer is a line of what the server says: exactly one of its fields is set.
type answer struct {
	Version string        `json:"version,omitempty"` // the first line
	Event   *plugin.Event `json:"event,omitempty"`
	Outcome *outcome      `json:"outcome,omitempty"` // the last line
}

// outcome is how a request ended.
type outcome struct {
	Result json.RawMessage `json:"result,omitempty"`
	Error  *failure        `json:"error,omitempty"`
}

// failure is a fault on its way from one machine to the other.
type failure struct {
	Kind     fault.Kind      `json:"kind"`
	Message  string          `json:"message"`
	Hint     string          `json:"hint,omitempty"`
	Problems []fault.Problem `json:"problems,omitempty"`
}

func outcomeOf(result json.RawMessage, err error) *outcome {
	o := &outcome{Result: result}
	if f := fault.As(err); f != nil {
		o.Error = &failure{f.Kind, f.Message, f.Hint, f.Problems}
	}
	return o
}

func (o *outcome) err() error {
	if o.Error == nil {
		return nil
	}
	return &fault.Error{Kind: o.Error.Kind, Message: o.Error.Message, Hint: o.Error.Hint, Problems: o.Error.Problems}
}
