//go:build unix

package plugin_test

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/plugin"
)

func TestExecuteStreamsEventsAndGivesTheResult(t *testing.T) {
	t.Parallel()
	c := start(t, plugin.Options{})
	var events []plugin.Event
	result, err := c.Execute(t.Context(), request(t, "echo", values{"text": "a\xffb"}),
		func(e plugin.Event) { events = append(events, e) })
	require.NoError(t, err)
	require.JSONEq(t, `{"said": "a\ufffdb"}`, string(result))
	require.Len(t, events, 5)
	require.Equal(t, "say", events[0].Step.ID)
	require.Nil(t, events[0].Step.Completed)
	require.WithinDuration(t, time.Now(), *events[0].Step.Started, time.Minute)
	require.Equal(t, 1, events[1].Log.Stream)
	require.Equal(t, "a\ufffdb\n", string(events[1].Log.Data))
	require.EqualValues(t, 5, events[2].Progress.Total)
	require.Equal(t, "said it", events[3].Note.Text)
	require.NotNil(t, events[4].Step.Completed)

	plan, err := c.Plan(t.Context(), request(t, "echo", values{"text": "x"}))
	require.NoError(t, err)
	require.JSONEq(t, `{"would_say": "x"}`, string(plan))
}

func TestErrorsKeepTheirKindHintProblemsAndResult(t *testing.T) {
	t.Parallel()
	c := start(t, plugin.Options{})
	for _, kind := range []plugin.Kind{
		plugin.Invalid, plugin.Denied, plugin.NotFound, plugin.BuildFailed,
		plugin.Cancelled, plugin.Unavailable, plugin.Internal,
	} {
		result, err := c.Execute(t.Context(), request(t, "fail",
			values{"kind": kind, "text": "oh no", "result": values{"pushed": 1}}), func(plugin.Event) {})
		require.JSONEq(t, `{"pushed": 1}`, string(result))
		var f *plugin.Error
		require.ErrorAs(t, err, &f)
		require.Equal(t, &plugin.Error{
			Kind: kind, Message: "oh no", Hint: "do it better",
			Problems: []plugin.Problem{{Pointer: "/text", Message: "is bad", Hint: "write another"}},
		}, f)
	}
}

func TestManyEventsComeInOrder(t *testing.T) {
	t.Parallel()
	const many = 100_000
	c := start(t, plugin.Options{})
	next := int64(0)
	_, err := c.Execute(t.Context(), request(t, "flood", values{"events": many}), func(e plugin.Event) {
		require.Equal(t, next, e.Progress.Current)
		next++
	})
	require.NoError(t, err)
	require.EqualValues(t, many, next)
}

func TestLargeLogArrivesWholeAndInOrder(t *testing.T) {
	t.Parallel()
	const size = 20<<20 + 17
	c := start(t, plugin.Options{})
	var data []byte
	_, err := c.Execute(t.Context(), request(t, "flood", values{"log_bytes": size}), func(e plugin.Event) {
		require.Equal(t, "flood", e.Log.Step)
		require.Equal(t, 2, e.Log.Stream)
		data = append(data, e.Log.Data...)
	})
	require.NoError(t, err)
	require.Len(t, data, size)
	for i, b := range data {
		if b != byte(i*7>>8) {
			require.Failf(t, "wrong byte", "at %d", i)
		}
	}
}

// A host that does not take events of one operation holds up that operation and nothing else.
func TestSlowHostHoldsUpOnlyItsOwnOperation(t *testing.T) {
	t.Parallel()
	c := start(t, plugin.Options{})
	release, held := make(chan struct{}), make(chan struct{})
	var once sync.Once
	var seen atomic.Int64
	flooded := make(chan error, 1)
	go func() {
		_, err := c.Execute(t.Context(), request(t, "flood", values{"events": 50_000, "log_bytes": 4 << 20}), func(plugin.Event) {
			seen.Add(1)
			once.Do(func() { close(held) })
			<-release
		})
		flooded <- err
	}()
	<-held
	for range 10 {
		_, err := c.Execute(t.Context(), request(t, "echo", values{"text": "x"}), func(plugin.Event) {
			_, err := c.Plan(t.Context(), request(t, "echo", values{"text": "from within"}))
			require.NoError(t, err)
		})
		require.NoError(t, err)
	}
	require.EqualValues(t, 1, seen.Load())
	close(release)
	require.NoError(t, <-flooded)
	require.EqualValues(t, 50_000+4, seen.Load())
}

func TestConcurrentOperationsDoNotMixTheirEvents(t *testing.T) {
	t.Parallel()
	c := start(t, plugin.Options{})
	var all sync.WaitGroup
	for i := range 30 {
		all.Go(func() {
			text := strings.Repeat("x", i)
			result, err := c.Execute(t.Context(), request(t, "echo", values{"text": text}), func(e plugin.Event) {
				if e.Log != nil && string(e.Log.Data) != text+"\n" {
					t.Errorf("operation %d got %q", i, e.Log.Data)
				}
			})
			if err != nil || !strings.Contains(string(result), `"`+text+`"`) {
				t.Errorf("operation %d: %s, %v", i, result, err)
			}
		})
	}
	all.Wait()
}

// executeSlow runs a slow operation until it has begun and calls then; it gives the operation's outcome.
func executeSlow(ctx context.Context, t *testing.T, c *plugin.Client, inputs values, then func()) (json.RawMessage, *plugin.Error) {
	t.Helper()
	result, err := c.Execute(ctx, request(t, "slow", inputs), func(e plugin.Event) {
		if e.Step != nil && e.Step.Completed == nil {
			go then()
		}
	})
	require.Error(t, err)
	return result, fault.As(err)
}

func TestCancelledOperationCleansUpAndSaysWhatItDid(t *testing.T) {
	t.Parallel()
	c := start(t, plugin.Options{})
	folder := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	result, f := executeSlow(ctx, t, c, values{"folder": folder}, func() {
		if isEmpty(t, folder) {
			t.Error("the operation has not begun")
		}
		cancel()
	})
	require.Equal(t, plugin.Cancelled, f.Kind)
	require.Equal(t, "executing slow was cancelled: waiting: context canceled", f.Message)
	require.ErrorIs(t, f, context.Canceled)
	require.JSONEq(t, `{"half": "done"}`, string(result))
	require.True(t, isEmpty(t, folder))

	_, err := c.Execute(t.Context(), request(t, "echo", values{}), func(plugin.Event) {})
	require.NoError(t, err, "the plugin goes on")
}

func TestDeadlineIsNoCancelling(t *testing.T) {
	t.Parallel()
	c := start(t, plugin.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := c.Execute(ctx, request(t, "slow", values{}), func(plugin.Event) {})
	require.Equal(t, plugin.Unavailable, fault.KindOf(err))
	require.ErrorIs(t, err, context.DeadlineExceeded)

	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	_, err = c.Execute(ctx, request(t, "echo", values{}), func(plugin.Event) {})
	require.Equal(t, plugin.Cancelled, fault.KindOf(err))
}

func TestOperationThatIgnoresCancellingIsKilledAfterTheGrace(t *testing.T) {
	t.Parallel()
	c := start(t, plugin.Options{Grace: 100 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	_, f := executeSlow(ctx, t, c, values{"deaf": "1h"}, cancel)
	require.Equal(t, plugin.Cancelled, f.Kind)
	require.Equal(t, "executing slow was cancelled; the plugin did not clean up in time and was killed", f.Message)
	eventually(t, "plugin gone", func() bool { return gone(c.PID()) })
}

func TestCloseCancelsWhatRunsAndRemovesTheFolder(t *testing.T) {
	t.Parallel()
	temp, folder := shortTemp(t), t.TempDir()
	c, err := plugin.Start(t.Context(), example, plugin.Options{TempDir: temp})
	require.NoError(t, err)
	require.False(t, isEmpty(t, temp))
	began := make(chan struct{})
	ended := make(chan error, 1)
	var once sync.Once
	go func() {
		_, err := c.Execute(t.Context(), request(t, "slow", values{"folder": folder}),
			func(plugin.Event) { once.Do(func() { close(began) }) })
		ended <- err
	}()
	<-began
	require.NoError(t, c.Close())
	require.Equal(t, plugin.Cancelled, fault.KindOf(<-ended))
	require.True(t, gone(c.PID()))
	require.True(t, isEmpty(t, temp))
	require.True(t, isEmpty(t, folder))
	require.NoError(t, c.Close())
	_, err = c.Describe(t.Context())
	require.Equal(t, plugin.Cancelled, fault.KindOf(err))
}

// A stopped plugin answers nothing, not even the request to end.
func TestCloseEndsAStoppedPlugin(t *testing.T) {
	t.Parallel()
	c, err := plugin.Start(t.Context(), example, plugin.Options{})
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(c.PID(), syscall.SIGSTOP))
	require.NoError(t, c.Close())
	require.True(t, gone(c.PID()))
}

func TestStrangersCannotTalkToThePlugin(t *testing.T) {
	t.Parallel()
	temp := shortTemp(t)
	start(t, plugin.Options{TempDir: temp})
	sockets, err := filepath.Glob(filepath.Join(temp, "image-builder-run-*", "plugin-dir*", "plugin*"))
	require.NoError(t, err)
	require.Len(t, sockets, 1)
	info, err := os.Stat(filepath.Dir(filepath.Dir(sockets[0])))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())

	conn, err := net.Dial("unix", sockets[0])
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"))
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
	answer := make([]byte, 64)
	n, err := conn.Read(answer)
	if err == nil { // a TLS alert, record type 21
		require.EqualValues(t, 21, answer[0])
	}
	require.NotContains(t, string(answer[:n]), "HTTP")
}
