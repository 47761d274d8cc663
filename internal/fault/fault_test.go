package fault_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
)

func TestAs(t *testing.T) {
	t.Parallel()
	denied := fault.New(fault.Denied, "push a/b: %w", io.EOF).WithHint("log in")
	tests := []struct {
		name    string
		err     error
		kind    fault.Kind
		message string
		hint    string
	}{
		{"a fault", denied, fault.Denied, "push a/b: EOF", "log in"},
		{"wrapped by fmt", fmt.Errorf("variant 1: %w", denied), fault.Denied, "variant 1: push a/b: EOF", "log in"},
		{"wrapped by us", fault.Wrap(denied, "variant %d", 1), fault.Denied, "variant 1: push a/b: EOF", "log in"},
		{"a cancelled context", fmt.Errorf("fetch: %w", context.Canceled), fault.Cancelled, "fetch: context canceled", ""},
		{"a deadline", context.DeadlineExceeded, fault.Unavailable, "context deadline exceeded", ""},
		{"a full disk", fault.New(fault.Internal, "write x: %w", syscall.ENOSPC), fault.Unavailable,
			"write x: no space left on device", "free some disk space, then try again"},
		{"anything else", io.ErrUnexpectedEOF, fault.Internal, "unexpected EOF", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := fault.As(tt.err)
			require.Equal(t, tt.kind, f.Kind)
			require.Equal(t, tt.message, f.Message)
			require.Equal(t, tt.hint, f.Hint)
		})
	}
	require.Nil(t, fault.As(nil))
	require.NoError(t, fault.Wrap(nil, "x"))
	require.Empty(t, fault.KindOf(nil))
	require.True(t, errors.Is(denied, io.EOF))
}

func TestInvalidInput(t *testing.T) {
	t.Parallel()
	require.NoError(t, fault.InvalidInput("x", nil))
	problems := []fault.Problem{
		{Pointer: "/target/images/0/tagg", Message: "unknown field", Hint: "did you mean tag?"},
		{Message: "the document is empty"},
	}
	err := fault.InvalidInput("a.yaml is not valid", problems)
	require.EqualError(t, err, "a.yaml is not valid\n  /target/images/0/tagg: unknown field (did you mean tag?)\n  the document is empty")
	require.Equal(t, problems, fault.As(fault.Wrap(err, "deploy")).Problems)
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	codes := map[fault.Kind]int{
		fault.Invalid: 2, fault.Denied: 4, fault.NotFound: 1, fault.BuildFailed: 1,
		fault.Cancelled: 3, fault.Unavailable: 75, fault.Internal: 1,
	}
	for kind, code := range codes {
		require.Equal(t, code, kind.ExitCode(), kind)
	}
}
