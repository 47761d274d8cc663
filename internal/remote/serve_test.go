package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
	"imagebuilder/internal/secret"
	"imagebuilder/plugin"
)

// ordered is standard input with an order, and the end that more can be written to.
func ordered(t *testing.T, o order) (in io.Reader, more *io.PipeWriter) {
	t.Helper()
	data, err := json.Marshal(o)
	require.NoError(t, err)
	reader, writer := io.Pipe()
	t.Cleanup(func() { _ = writer.Close() })
	return io.MultiReader(bytes.NewReader(append(data, '\n')), reader), writer
}

// TestSilence: without a sign of life, and when standard input ends, what is done is cancelled; signs of life keep it going.
func TestSilence(t *testing.T) {
	t.Parallel()
	const silence = 300 * time.Millisecond
	for name, c := range map[string]struct {
		behave func(*io.PipeWriter)
		lives  bool
	}{
		"silent": {func(*io.PipeWriter) {}, false},
		"closed": {func(w *io.PipeWriter) { _ = w.Close() }, false},
		"alive": {func(w *io.PipeWriter) {
			for range 60 {
				time.Sleep(silence / 30)
				_, _ = io.WriteString(w, "\n")
			}
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in, more := ordered(t, order{Request: plugin.Request{Settings: json.RawMessage(`{}`)}, SilenceSeconds: silence.Seconds()})
			done := make(chan struct{})
			go func() {
				c.behave(more)
				close(done)
			}()
			var out bytes.Buffer
			require.NoError(t, Serve(t.Context(), in, &out, "v1", result.Settings{}, func(ctx context.Context, _ plugin.Request, emit plugin.Sink) (json.RawMessage, error) {
				emit(plugin.Event{Note: &plugin.Note{Text: "on it"}})
				if c.lives {
					<-done
					return json.RawMessage(`1`), ctx.Err()
				}
				select {
				case <-ctx.Done():
				case <-time.After(time.Minute):
				}
				return nil, ctx.Err()
			}))
			lines := strings.Split(strings.TrimSpace(out.String()), "\n")
			require.Len(t, lines, 3, "version, event, outcome: %s", out.String())
			var last answer
			require.NoError(t, json.Unmarshal([]byte(lines[2]), &last))
			if c.lives {
				require.NoError(t, last.Outcome.err())
				require.JSONEq(t, `1`, string(last.Outcome.Result))
			} else {
				require.Equal(t, fault.Cancelled, fault.KindOf(last.Outcome.err()))
			}
		})
	}
}

// TestSettings: how to build is the server's affair, whose it is and what references stand for the orchestrator's.
func TestSettings(t *testing.T) {
	t.Parallel()
	given, err := json.Marshal(result.Settings{
		Engine: "docker", StateDir: "/here", Owner: "me", Force: true, WorkFolder: "/w", References: secret.Table{},
		Registries: map[string]result.RegistrySettings{"base:1": {Insecure: true}},
	})
	require.NoError(t, err)
	own := result.Settings{Engine: "managed", StateDir: "/there", Registries: map[string]result.RegistrySettings{"base:1": {Mirrors: []string{"m"}}}}
	request, err := onServer(own, plugin.Request{Settings: given})
	require.NoError(t, err)
	var got result.Settings
	require.NoError(t, json.Unmarshal(request.Settings, &got))
	require.NotNil(t, got.References, "where there are none, the server's own are not looked up either")
	require.Equal(t, result.Settings{
		Engine: "managed", StateDir: "/there", Owner: "me", Force: true, WorkFolder: "/w", References: secret.Table{},
		Registries: map[string]result.RegistrySettings{"base:1": {Mirrors: []string{"m"}, Insecure: true}},
	}, got)
}

// TestFailure: an error is the same on both sides.
func TestFailure(t *testing.T) {
	t.Parallel()
	want := &fault.Error{Kind: fault.Invalid, Message: "m", Hint: "h", Problems: []fault.Problem{{Pointer: "/p", Message: "wrong", Hint: "mend"}}}
	data, err := json.Marshal(outcomeOf(json.RawMessage(`{"partly": true}`), want))
	require.NoError(t, err)
	var got outcome
	require.NoError(t, json.Unmarshal(data, &got))
	require.Equal(t, want, got.err())
	require.JSONEq(t, `{"partly": true}`, string(got.Result))
}

// TestQuoted: a word stays one to the server's shell.
func TestQuoted(t *testing.T) {
	t.Parallel()
	require.Equal(t, `'it'\''s $HOME'`, quoted("it's $HOME"))
}
