package remote

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"sync"
	"time"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
	"imagebuilder/plugin"
)

// Execute performs a request on the machine that it is called on.
type Execute func(ctx context.Context, request plugin.Request, emit plugin.Sink) (json.RawMessage, error)

// Serve is the server's side: it takes one order from in, has it executed, and answers on out. When in ends, or gives no
// sign of life for as long as the order says, it cancels. own are the server's settings. The orchestrator is told of every
// error of the request; what is returned is an error that it cannot be told of.
func Serve(ctx context.Context, in io.Reader, out io.Writer, version string, own result.Settings, execute Execute) error {
	to := &answers{encoder: json.NewEncoder(out)}
	if err := to.write(answer{Version: version}); err != nil {
		return err
	}
	from := bufio.NewReader(in)
	line, err := from.ReadBytes('\n')
	if err != nil {
		return fault.New(fault.Cancelled, "no order came")
	}
	var o order
	if err := json.Unmarshal(line, &o); err != nil {
		return fault.New(fault.Invalid, "the order is none") // an error of encoding/json may quote it
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go listen(from, time.Duration(o.SilenceSeconds*float64(time.Second)), cancel)

	request, err := onServer(own, o.Request)
	var raw json.RawMessage
	if err == nil {
		raw, err = execute(ctx, request, func(e plugin.Event) { _ = to.write(answer{Event: &e}) })
	}
	return to.write(answer{Outcome: outcomeOf(raw, err)})
}

// listen calls cancel when there are no signs of life any more.
func listen(from *bufio.Reader, silence time.Duration, cancel func()) {
	timer := time.AfterFunc(silence, cancel)
	defer timer.Stop()
	for {
		if _, err := from.ReadByte(); err != nil {
			cancel()
			return
		}
		timer.Reset(silence)
	}
}

// answers writes answers, one on each line.
type answers struct {
	mu      sync.Mutex
	encoder *json.Encoder
}

func (a *answers) write(what answer) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.encoder.Encode(what); err != nil {
		return fault.New(fault.Cancelled, "nobody listens: %w", err)
	}
	return nil
}
