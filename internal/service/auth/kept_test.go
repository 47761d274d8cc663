package auth

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What is old is given at once while a new one is fetched; nobody waits for a provider that hangs.
func TestOldValuesAreGivenWhileNewOnesAreFetched(t *testing.T) {
	t.Parallel()
	now := time.Now()
	answers := make(chan string)
	asked := make(chan struct{}, 10)
	k := kept[string]{now: func() time.Time { return now }, maxAge: time.Hour, fetch: func(context.Context) (string, error) {
		asked <- struct{}{}
		answer := <-answers
		if answer == "" {
			return "", errors.New("down")
		}
		return answer, nil
	}}
	any := func(string) bool { return true }
	go func() { answers <- "one" }()
	value, err := k.get(t.Context(), any)
	require.NoError(t, err)
	require.Equal(t, "one", value)
	<-asked

	now = now.Add(2 * time.Hour)
	for range 5 {
		value, err = k.get(t.Context(), any) // the fetch hangs
		require.NoError(t, err)
		require.Equal(t, "one", value)
	}
	<-asked
	answers <- ""
	require.Eventually(t, func() bool { k.mu.Lock(); defer k.mu.Unlock(); return k.err != nil }, time.Minute, time.Millisecond)
	value, err = k.get(t.Context(), any)
	require.NoError(t, err, "down, and what there is stays good")
	require.Equal(t, "one", value)
	require.Empty(t, asked, "within a second nobody asks again")

	now = now.Add(time.Second)
	_, err = k.get(t.Context(), any)
	require.NoError(t, err)
	answers <- "two"
	require.Eventually(t, func() bool { value, _ := k.get(t.Context(), any); return value == "two" }, time.Minute, time.Millisecond)

	// Whose request has ended does not wait, and does not take the fetch along.
	ended, end := context.WithCancel(t.Context())
	end()
	now = now.Add(time.Minute)
	_, err = k.get(ended, func(v string) bool { return v == "three" })
	require.ErrorIs(t, err, context.Canceled)
	answers <- "three"
	require.Eventually(t, func() bool { value, _ := k.get(t.Context(), any); return value == "three" }, time.Minute, time.Millisecond)
}
