package plugin

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"imagebuilder/internal/fault"
	"imagebuilder/plugin/internal/pluginpb"
)

// server answers a host's calls with a Plugin and knows what is running.
type server struct {
	pluginpb.UnimplementedPluginServer
	plugin Plugin

	mu       sync.Mutex
	stopping bool
	next     uint64                        // keys of calls
	calls    map[uint64]context.CancelFunc // what runs
	byID     map[uint64]context.CancelFunc // operations by the host's id
	running  sync.WaitGroup                // one for each of calls; no Add once stopping is set
}

func newServer(p Plugin) *server {
	return &server{plugin: p, calls: map[uint64]context.CancelFunc{}, byID: map[uint64]context.CancelFunc{}}
}

// begin registers a call, so that the process can wait for it when it has to stop. end has to be called.
func (s *server) begin(ctx context.Context) (_ context.Context, cancel, end func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return nil, nil, nil, fault.New(Cancelled, "the plugin is stopping")
	}
	ctx, cancelCtx := context.WithCancel(ctx)
	key := s.next
	s.next++
	s.calls[key] = cancelCtx
	s.running.Add(1)
	return ctx, cancelCtx, func() {
		cancelCtx()
		s.mu.Lock()
		delete(s.calls, key)
		s.mu.Unlock()
		s.running.Done()
	}, nil
}

// stop cancels everything that runs, lets nothing new begin, and waits until all has ended,
// but no longer than limit. It tells whether all has ended.
func (s *server) stop(limit time.Duration) bool {
	s.mu.Lock()
	s.stopping = true
	for _, cancel := range s.calls {
		cancel()
	}
	s.mu.Unlock()

	ended := make(chan struct{})
	go func() {
		s.running.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return true
	case <-time.After(limit):
		return false
	}
}

func (s *server) Describe(ctx context.Context, _ *pluginpb.DescribeRequest) (*pluginpb.DescribeResponse, error) {
	ctx, _, end, err := s.begin(ctx)
	if err != nil {
		return &pluginpb.DescribeResponse{Error: errorTo(err)}, nil
	}
	defer end()
	d, err := s.plugin.Describe(ctx)
	if err != nil {
		return &pluginpb.DescribeResponse{Error: errorTo(err)}, nil
	}
	return &pluginpb.DescribeResponse{Description: descriptionTo(d)}, nil
}

func (s *server) Plan(ctx context.Context, in *pluginpb.PlanRequest) (*pluginpb.PlanResponse, error) {
	ctx, _, end, err := s.begin(ctx)
	if err != nil {
		return &pluginpb.PlanResponse{Error: errorTo(err)}, nil
	}
	defer end()
	plan, err := s.plugin.Plan(ctx, requestFrom(in.GetRequest()))
	plan, err = checked("plan", plan, err)
	return &pluginpb.PlanResponse{Plan: plan, Error: errorTo(err)}, nil
}

func (s *server) Execute(in *pluginpb.ExecuteRequest, stream grpc.ServerStreamingServer[pluginpb.Event]) error {
	out := &events{stream: stream}
	ctx, cancel, end, err := s.begin(stream.Context())
	if err != nil {
		return out.finish(nil, err)
	}
	defer end()

	id := in.GetId()
	s.mu.Lock()
	_, taken := s.byID[id]
	if !taken {
		s.byID[id] = cancel
	}
	s.mu.Unlock()
	if taken {
		return out.finish(nil, fault.New(Internal, "operation %d is running already", id))
	}
	defer func() {
		s.mu.Lock()
		delete(s.byID, id)
		s.mu.Unlock()
	}()

	// The header tells the host that the operation can be cancelled by its id from now on.
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	return out.finish(s.plugin.Execute(ctx, requestFrom(in.GetRequest()), out.emit))
}

func (s *server) Cancel(_ context.Context, in *pluginpb.CancelRequest) (*pluginpb.CancelResponse, error) {
	s.mu.Lock()
	cancel, found := s.byID[in.GetId()]
	s.mu.Unlock()
	if found {
		cancel()
	}
	return &pluginpb.CancelResponse{Found: found}, nil
}

// events sends the events of one operation. A stream takes one message at a time and none after its
// handler has returned, while operations emit from many goroutines, late ones among them.
type events struct {
	mu     sync.Mutex
	stream grpc.ServerStreamingServer[pluginpb.Event]
	ended  bool
}

// emit sends an event and blocks while the host does not keep up. It drops events when
// the host is gone: the operation then ends by its context.
func (e *events) emit(ev Event) {
	messages := eventsTo(ev)
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range messages {
		if e.ended {
			return
		}
		if err := e.stream.Send(m); err != nil {
			e.ended = true
		}
	}
}

// finish sends the outcome, after which nothing is sent any more.
func (e *events) finish(result json.RawMessage, err error) error {
	result, err = checked("result", result, err)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended {
		return nil // the host is gone
	}
	e.ended = true
	outcome := &pluginpb.Outcome{Result: result, Error: errorTo(err)}
	return e.stream.Send(&pluginpb.Event{Kind: &pluginpb.Event_Outcome{Outcome: outcome}})
}

// checked refuses what the other side could not use. An error of the operation itself is kept.
func checked(what string, data json.RawMessage, err error) (json.RawMessage, error) {
	var defect string
	switch {
	case len(data) == 0 || string(data) == "null":
		return nil, err
	case !json.Valid(data):
		defect = "is not JSON"
	case proto.Size(&pluginpb.Outcome{Result: data, Error: errorTo(err)}) > maxMessage-messageFrame:
		defect = fmt.Sprintf("has %d bytes, the most is %d", len(data), maxMessage)
	default:
		return data, err
	}
	if err != nil {
		return nil, err
	}
	return nil, fault.New(Internal, "the operation's %s %s", what, defect)
}

// messageFrame is room for what is around an outcome in a message.
const messageFrame = 1 << 10
