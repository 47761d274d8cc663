package queue_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/service/queue"
	"imagebuilder/internal/service/store"
)

// TestKeeper: what becomes of a build with a lease of 20 s and a heartbeat each 5 s, by what the database answers at each moment.
func TestKeeper(t *testing.T) {
	t.Parallel()
	away := errors.New("the database is away")
	tests := []struct {
		name   string
		answer func(at time.Duration) (cancel bool, err error)
		asked  time.Duration // a notice comes then; 0: none
		ends   time.Duration // of the build; 0: it goes on
		why    error
	}{
		{name: "renewed", answer: func(time.Duration) (bool, error) { return false, nil }},
		{name: "cancelled without a notice", answer: func(at time.Duration) (bool, error) { return at > 6*time.Second, nil },
			ends: 10 * time.Second, why: queue.ErrCancelled},
		{name: "cancelled with a notice", answer: func(at time.Duration) (bool, error) { return at > 6*time.Second, nil },
			asked: 7 * time.Second, ends: 7 * time.Second, why: queue.ErrCancelled},
		{name: "lost", answer: func(at time.Duration) (bool, error) {
			if at > 12*time.Second {
				return false, store.ErrLeaseLost
			}
			return false, nil
		}, ends: 15 * time.Second, why: queue.ErrLost},
		{name: "database away for 15 s", answer: func(at time.Duration) (bool, error) {
			if at > 6*time.Second && at < 20*time.Second {
				return false, away
			}
			return false, nil
		}},
		{name: "database away for good", answer: func(at time.Duration) (bool, error) {
			if at > 6*time.Second {
				return false, away
			}
			return false, nil
		}, ends: 21 * time.Second, why: queue.ErrLost}, // 4 s before the lease's end, which was renewed at 5 s
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "lease")
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				building, writing, ask, err := queue.Keep(ctx, func() (bool, error) { return tt.answer(time.Since(began)) }, 20*time.Second, 5*time.Second, file)
				require.NoError(t, err)
				if tt.asked > 0 {
					time.AfterFunc(tt.asked, ask)
				}
				until := func() time.Time {
					data, err := os.ReadFile(file)
					require.NoError(t, err)
					ms, err := strconv.ParseInt(string(data), 10, 64)
					require.NoError(t, err)
					return time.UnixMilli(ms)
				}
				require.Equal(t, 16*time.Second, until().Sub(began))
				select {
				case <-building.Done():
				case <-time.After(time.Minute):
				}
				if tt.ends == 0 {
					require.NoError(t, building.Err())
					require.Greater(t, time.Until(until()), 10*time.Second, "the plugin knows of it")
					return
				}
				require.Equal(t, tt.ends, time.Since(began))
				require.ErrorIs(t, context.Cause(building), tt.why)
				synctest.Wait()
				require.Equal(t, errors.Is(tt.why, queue.ErrLost), writing.Err() != nil, "only who lost the lease may write no more")
				require.LessOrEqual(t, until().Sub(began), tt.ends+16*time.Second)
			})
		})
	}
}
