package store

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// NoticeKind tells what has happened.
type NoticeKind string

// The kinds of notices.
const (
	NoticeLog    NoticeKind = "log"    // the log has grown
	NoticeState  NoticeKind = "state"  // the state has changed
	NoticeCancel NoticeKind = "cancel" // somebody wants it cancelled
	NoticeAll    NoticeKind = "all"    // notices may have been missed: look at everything; without an ID
)

const (
	// watchPoll is how late notices of another process come on SQLite.
	watchPoll = 200 * time.Millisecond
	// noticesKept is how long SQLite keeps notices; who has not looked for half as long is told to look at everything.
	noticesKept = time.Minute
	// watchPing is how often a connection that brings nothing is asked whether it still stands.
	watchPing = 10 * time.Second
	// watchRetry bounds the pause between attempts to connect: a restart of the database is noticed at once.
	watchRetry, watchRetryMost = 100 * time.Millisecond, 3 * time.Second
	// fanBuffer is how many notices wait for a watcher; the next are replaced by one NoticeAll.
	fanBuffer = 1024
)

// Notice tells that something has happened to an invocation. It is a hint to look: it may come twice.
type Notice struct {
	Kind NoticeKind
	ID   string
}

// Watch calls f for what happens in any process, until ctx ends, and then gives ctx's error. It begins with NoticeAll
// as soon as it sees what happens, and says it again after each gap, as when the database was away. A submission is
// not told. f is not called twice at once, and must not block for long.
func (s *Store) Watch(ctx context.Context, f func(Notice)) error {
	return s.db.watch(ctx, f)
}

func (p *postgres) watch(ctx context.Context, f func(Notice)) error {
	wait := watchRetry
	for {
		err := p.listen(ctx, func(n Notice) { wait = watchRetry; f(n) })
		if ctx.Err() != nil {
			return ctx.Err()
		}
		p.logger.Warn("the connection that brings notices is gone; connecting again", slog.Any("error", err))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		wait = min(2*wait, watchRetryMost)
	}
}

// listen gives notices for as long as one connection stands. It is none of the pool: it is never given back.
func (p *postgres) listen(ctx context.Context, f func(Notice)) error {
	conn, err := pgx.ConnectConfig(ctx, p.pool.Config().ConnConfig)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing) // it may be gone already
	}()
	if _, err := conn.Exec(ctx, "listen "+channel); err != nil {
		return err
	}
	f(Notice{Kind: NoticeAll})
	for {
		waiting, cancel := context.WithTimeout(ctx, watchPing)
		got, err := conn.WaitForNotification(waiting)
		cancel()
		switch {
		case err == nil:
			if n, ok := noticeOf(got); ok {
				f(n)
			}
		case ctx.Err() != nil:
			return ctx.Err()
		case !errors.Is(err, context.DeadlineExceeded):
			return err
		default:
			if err := ping(ctx, conn); err != nil {
				return err
			}
		}
	}
}

func ping(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, watchPing)
	defer cancel()
	return conn.Ping(ctx)
}

func noticeOf(n *pgconn.Notification) (Notice, bool) {
	kind, id, ok := strings.Cut(n.Payload, ":")
	return Notice{NoticeKind(kind), id}, ok
}

// fan gives notices to the watchers of one process.
type fan struct {
	mutex    sync.Mutex
	watchers map[chan Notice]*bool // whether some notices had no room
}

func (f *fan) join() (c chan Notice, leave func()) {
	c = make(chan Notice, fanBuffer)
	f.mutex.Lock()
	defer f.mutex.Unlock()
	if f.watchers == nil {
		f.watchers = map[chan Notice]*bool{}
	}
	f.watchers[c] = new(bool)
	return c, func() {
		f.mutex.Lock()
		defer f.mutex.Unlock()
		delete(f.watchers, c)
	}
}

func (f *fan) tell(notices ...Notice) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	for c, missed := range f.watchers {
		for _, n := range notices {
			select {
			case c <- n:
			default:
				*missed = true
			}
		}
	}
}

// missed tells whether there was no room for some notices since it was asked last.
func (f *fan) missed(c chan Notice) bool {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	missed := f.watchers[c]
	was := *missed
	*missed = false
	return was
}

func (s *sqlite) watch(ctx context.Context, f func(Notice)) error {
	c, leave := s.fan.join()
	defer leave()
	ticker := time.NewTicker(watchPoll)
	defer ticker.Stop()
	looked, last := time.Time{}, int64(0)
	for {
		now := time.Now()
		theirs, newest, err := s.notices(ctx, last)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			s.logger.Warn("read the notices of other processes", slog.Any("error", err))
		case now.Sub(looked) > noticesKept/2 || s.fan.missed(c):
			f(Notice{Kind: NoticeAll})
			looked, last = now, newest
		default:
			for _, n := range theirs {
				f(n)
			}
			looked, last = now, newest
		}
		for ticked := false; !ticked; {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-ticker.C:
				ticked = true
			case n := <-c:
				f(n)
			}
		}
	}
}

// notices gives those of other processes that are newer than last, and the number of the newest.
func (s *sqlite) notices(ctx context.Context, last int64) (theirs []Notice, newest int64, err error) {
	newest = last
	err = s.read(ctx, ask(func(r row) error {
		var n Notice
		var kind, origin string
		if err := r.Scan(&newest, &origin, &kind, &n.ID); err != nil {
			return err
		}
		if n.Kind = NoticeKind(kind); origin != s.origin {
			theirs = append(theirs, n)
		}
		return nil
	}, "select seq, origin, kind, invocation_id from ib_notice where seq > ? order by seq", last))
	return theirs, newest, err
}
