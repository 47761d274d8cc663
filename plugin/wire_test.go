package plugin

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
)

func TestWhatIsConvertedComesBackTheSame(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 21, 10, 0, 0, 123456789, time.UTC)
	for _, e := range []Event{
		{Step: &Step{ID: "a", Name: "b", Group: "c", Started: &at, Completed: &at, Cached: true, Error: "d"}},
		{Step: &Step{}},
		{Progress: &Progress{ID: "a", Step: "b", Name: "c", Current: 1, Total: 1 << 40, At: at, Started: &at, Completed: &at}},
		{Progress: &Progress{}},
		{Log: &Log{Step: "a", Stream: 2, Data: []byte("\xff\x00"), At: at}},
		{Note: &Note{Level: event.Warning, Text: "a"}},
	} {
		messages := eventsTo(e)
		require.Len(t, messages, 1)
		back, ok := eventFrom(messages[0])
		require.True(t, ok)
		require.Equal(t, e, back)
	}
	require.Empty(t, eventsTo(Event{}))

	request := Request{
		NodeType: "a", Operation: "b", Inputs: json.RawMessage(`{}`), Settings: json.RawMessage(`1`), WorkDir: "/c",
	}
	require.Equal(t, request, requestFrom(requestTo(request)))
	description := Description{Name: "a", Version: "b", Nodes: []NodeType{{Name: "c", Operations: []Operation{
		{Name: "d", Description: "e", Inputs: json.RawMessage(`{}`), CanPlan: true}, {Name: "f"},
	}}}}
	require.Equal(t, description, descriptionFrom(descriptionTo(description)))
	require.Equal(t, Internal, errorFrom(errorTo(io.ErrUnexpectedEOF)).Kind)
	require.Nil(t, errorFrom(errorTo(nil)))
}

// Every string on the wire has to be UTF-8 and of a sensible length, or the call itself would fail.
func TestTextFitsTheWire(t *testing.T) {
	t.Parallel()
	require.Equal(t, "a\uFFFDb", text("a\xffb"))
	long := text(strings.Repeat("ä", maxText))
	require.LessOrEqual(t, len(long), maxText+10)
	require.True(t, strings.HasPrefix(long, "…"))
}

func TestResultsThatCannotBeSentAreDefectsOfThePlugin(t *testing.T) {
	t.Parallel()
	own := errors.New("own")
	for name, test := range map[string]struct {
		data string
		err  error
		want string
	}{
		"good":           {`{"a": 1}`, nil, ""},
		"none":           {``, nil, ""},
		"no JSON":        {`{`, nil, "the operation's result is not JSON"},
		"too large":      {`"` + strings.Repeat("x", maxMessage) + `"`, nil, "the operation's result has 16777218 bytes, the most is 16777216"},
		"own error wins": {`{`, own, "own"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data, err := checked("result", json.RawMessage(test.data), test.err)
			if test.want == "" {
				require.NoError(t, err)
				require.Equal(t, test.data, string(data))
				return
			}
			require.EqualError(t, err, test.want)
			require.Equal(t, Internal, fault.KindOf(err))
			require.Nil(t, data)
		})
	}
}

func TestLastWords(t *testing.T) {
	t.Parallel()
	lines := func(n int) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(strings.Repeat("x", i) + ".\n")
		}
		return b.String()
	}
	tests := map[string]struct{ written, want string }{
		"nothing":       {"", ""},
		"one":           {"a\n", "\n  a"},
		"no line break": {"a\n\nb\r\nc", "\n  a\n  b\n  c"},
		"panic": {
			"a\npanic: b [recovered]\n\tpanic: c\n\ngoroutine 1 [running]:\nmain.main()\n\t/x.go:1 +0x1\nexit status 2\n",
			"\n  a\n  panic: b [recovered]",
		},
		"fatal error": {"fatal error: out of memory\n\nruntime stack:\nx\n", "\n  fatal error: out of memory"},
		"quit":        {"SIGQUIT: quit\nPC=0x1 m=0\n", "\n  SIGQUIT: quit"},
		"printed trace": {
			"a\ngoroutine 7 [running]:\nruntime/debug.Stack()\n\t/x.go:1\n\nb\n", "\n  a\n  b",
		},
		"new trace style": {"goroutine 1 gp=0xc00 m=0 mp=0x1 [running]:\nx()\n\ny\n", "\n  y"},
		"endless line":    {strings.Repeat("x", 3*maxLine) + "\ny\n", "\n  " + strings.Repeat("x", maxLine) + "\n  y"},
		"no UTF-8":        {"\xff\n", "\n  \uFFFD"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, size := range []int{1, 7, 1 << 20} { // however it is cut into writes
				var w lastWords
				out := w.output()
				for data := test.written; data != ""; {
					n := min(size, len(data))
					_, err := io.WriteString(out, data[:n])
					require.NoError(t, err)
					data = data[n:]
				}
				require.Equal(t, test.want, w.text())
			}
		})
	}

	var w lastWords
	one, other := w.output(), w.output()
	_, _ = io.WriteString(one, lines(30)+"be")
	_, _ = io.WriteString(other, "between\n")
	_, _ = io.WriteString(one, "gun")
	words := strings.Split(strings.TrimPrefix(w.text(), "\n"), "\n")
	require.Len(t, words, lastLines)
	require.Equal(t, []string{"  between", "  begun"}, words[lastLines-2:])
}

// A path that is too long for a socket would make every start fail.
func TestRunFolderLeavesRoomForSockets(t *testing.T) {
	t.Parallel()
	require.Equal(t, "/tmp", socketBase("/var/folders/zz/zyxvpxvq6csfxvn_n0000000000000/T"))
	require.Equal(t, "/run/user/1000", socketBase("/run/user/1000"))
}
