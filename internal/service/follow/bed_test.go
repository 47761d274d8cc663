package follow_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/service/follow"
	"imagebuilder/internal/service/store"
	"imagebuilder/internal/testbed"
)

// counted is a store that counts how often a log is read, and may keep notices to itself.
type counted struct {
	*store.Store
	reads, gets atomic.Int64
	deaf        bool
}

func (c *counted) Log(ctx context.Context, id string, after int64, maxBytes int) ([]store.LogEntry, error) {
	c.reads.Add(1)
	return c.Store.Log(ctx, id, after, maxBytes)
}

func (c *counted) Get(ctx context.Context, id string) (store.Invocation, error) {
	c.gets.Add(1)
	return c.Store.Get(ctx, id)
}

func (c *counted) Watch(ctx context.Context, f func(store.Notice)) error {
	if c.deaf {
		<-ctx.Done()
		return ctx.Err()
	}
	return c.Store.Watch(ctx, f)
}

// bed is a real store with one build that runs, and a hub.
type bed struct {
	source *counted
	hub    *follow.Hub
	lease  *store.Lease
	id     string
}

func onBoth(t *testing.T, test func(t *testing.T, b *bed)) {
	t.Helper()
	t.Parallel()
	t.Run("PostgreSQL", func(t *testing.T) {
		t.Parallel()
		test(t, newBed(t, postgres(testbed.Postgres(t)), false))
	})
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		test(t, newBed(t, sqlite(t), false))
	})
}

func postgres(at testbed.PostgresDatabase) store.Config {
	return store.Config{Postgres: &store.Postgres{Host: at.Host, Port: at.Port, Name: at.Name, User: at.User, Password: at.Password, MaxConns: 5}}
}

func sqlite(t *testing.T) store.Config {
	return store.Config{SQLite: filepath.Join(t.TempDir(), "builds.db")}
}

func newBed(t *testing.T, config store.Config, deaf bool, options ...follow.Option) *bed {
	t.Helper()
	ctx := t.Context()
	s, err := store.Open(ctx, config)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	require.NoError(t, s.Migrate(ctx))
	id, err := uuid.NewV7()
	require.NoError(t, err)
	_, _, err = s.Submit(ctx, store.Submission{ID: id.String(), Subject: "user:ann", BuildParams: json.RawMessage(`{}`), Sealed: []byte("x"), Images: []string{"r.example.com/a:b"}})
	require.NoError(t, err)
	b := &bed{source: &counted{Store: s, deaf: deaf}, id: id.String()}
	b.lease, err = s.Claim(ctx, "test", time.Hour, 0)
	require.NoError(t, err)
	require.NotNil(t, b.lease)
	b.hub = follow.New(b.source, options...)
	watch, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.hub.Run(watch) }()
	t.Cleanup(func() {
		stop()
		require.ErrorIs(t, <-done, context.Canceled)
		require.Zero(t, b.hub.Followed())
	})
	return b
}

// write adds entries of so many bytes, in one go. Each says its number.
func (b *bed) write(t *testing.T, count, size int) {
	t.Helper()
	var entries []store.LogEntry
	for i := range count {
		seq := b.lease.NextSeq + int64(i)
		data := make([]byte, size)
		copy(data, fmt.Appendf(nil, "%d\n", seq))
		entries = append(entries, store.LogEntry{Seq: seq, Attempt: 1, Kind: store.LogOut, Step: "a", At: time.Unix(1, 0), Data: data})
	}
	require.NoError(t, b.append(t.Context(), entries))
}

// append writes entries however long the database is away.
func (b *bed) append(ctx context.Context, entries []store.LogEntry) error {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		err := b.source.AppendLog(ctx, b.lease, entries)
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

func (b *bed) finish(t *testing.T) {
	t.Helper()
	require.NoError(t, b.source.Finish(t.Context(), b.lease, store.Outcome{State: store.StateSuccess}))
}

// reader follows and demands every entry once and in order.
type reader struct {
	seq    int64
	update follow.Update // the last
	got    chan int64    // holds how far it is, if somebody wants to know: room for one

	// It stops after its first entry, says so, and waits until hold is closed.
	hold  chan struct{}
	began *sync.WaitGroup
	once  sync.Once
}

func (r *reader) take(u follow.Update) error {
	r.update = u
	for _, e := range u.Entries {
		if e.Seq != r.seq+1 {
			return fmt.Errorf("entry %d came after %d", e.Seq, r.seq)
		}
		if want := fmt.Sprintf("%d\n", e.Seq); string(e.Data[:len(want)]) != want {
			return fmt.Errorf("entry %d says %q", e.Seq, e.Data[:len(want)])
		}
		r.seq++
	}
	if r.got != nil {
		select { // the newest in the place of one that nobody has taken
		case <-r.got:
		default:
		}
		r.got <- r.seq
	}
	if r.hold != nil && len(u.Entries) > 0 {
		r.once.Do(r.began.Done)
		<-r.hold
	}
	return nil
}
