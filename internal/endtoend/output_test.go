package endtoend_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/testbed"
)

// TestOutputArrivesWhole: 4 MiB that a step writes as fast as it can. BuildKit's daemon would clip it at 200 KiB a second.
func TestOutputArrivesWhole(t *testing.T) {
	t.Parallel()
	const lines = 64 << 10 // of 64 bytes and a few
	rest := strings.Repeat("x", 60)
	w := newWorld(t, testbed.RegistryOptions{})
	s := newStage(t)
	s.env = append(s.env, "BUILDKIT_HOST="+w.engine)
	// The text keeps the step from being cached.
	input := w.input(t, fmt.Sprintf("FROM busybox\nRUN : %s; seq 1 %d | sed 's/$/ %s/'\n", rand.Text(), lines, rest))
	p := s.start(t, "build", input, "--progress", "json")
	require.Equal(t, fault.ExitOK, p.wait(), "%.2000s", p.said())

	var got, want bytes.Buffer
	for i := range lines {
		fmt.Fprintf(&want, "%d %s\n", i+1, rest)
	}
	in := bufio.NewReader(strings.NewReader(p.said()))
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			break
		}
		var e event.Event
		require.NoError(t, json.Unmarshal(line, &e), "%.200s", line)
		if e.Log != nil && e.Log.Stream == 1 {
			got.Write(e.Log.Data)
		}
	}
	require.Equal(t, want.Len(), got.Len())
	require.True(t, bytes.Equal(want.Bytes(), got.Bytes()), "every byte, in order")
}
