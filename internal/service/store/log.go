package store

import (
	"context"
	"time"

	"imagebuilder/internal/fault"
)

// LogKind tells what an entry of a log is.
type LogKind string

// The kinds of log entries.
const (
	LogOut     LogKind = "out"     // bytes of a step's output, as they came
	LogStep    LogKind = "step"    // JSON of event.Step
	LogNote    LogKind = "note"    // JSON of event.Note
	LogCut     LogKind = "cut"     // JSON {"dropped_from": byte offset, "limit": bytes}: output is dropped from here on
	LogAttempt LogKind = "attempt" // JSON {"attempt": n, "reason": "…"}: a new attempt begins
)

// LogEntry is one entry of an invocation's log. Seq grows by one from 1 over all attempts.
type LogEntry struct {
	Seq     int64
	Attempt int
	Kind    LogKind
	Step    string // event.Step.ID; "" where none
	At      time.Time
	Data    []byte
}

// logPage is how many entries Log gives at most: it looks at the sizes of that many before it reads data.
const logPage = 1000

// AppendLog writes entries, whose Seq go on from l.NextSeq without a gap, in one round trip, and moves l.NextSeq and
// l.LogBytes on. Error: ErrLeaseLost. After any other error the caller repeats the call with the same entries: what
// was written all the same is not written twice.
func (s *Store) AppendLog(ctx context.Context, l *Lease, entries []LogEntry) error {
	if len(entries) == 0 {
		return nil
	}
	size, cut := l.LogBytes, l.LogCut
	for i, e := range entries {
		if e.Seq != l.NextSeq+int64(i) {
			return fault.New(fault.Internal, "write the log of invocation %s: entry %d comes where %d is due", l.Invocation.ID, e.Seq, l.NextSeq+int64(i))
		}
		switch e.Kind {
		case LogOut:
			size += int64(len(e.Data))
		case LogCut:
			cut = true
		}
	}
	next, held := l.NextSeq+int64(len(entries)), int64(0)
	notice := Notice{NoticeLog, l.Invocation.ID}
	// The update is the fence: it holds the row until all is written, and what is written asks for the lease again.
	// Its values do not depend on what was there, so that a repeated call changes nothing.
	statements := []*statement{do("update ib_invocation set next_seq = ?, log_bytes = ?, log_cut = ? where "+fence,
		append([]any{next, size, cut}, l.fenceArgs()...)...).counted(&held)}
	for _, e := range entries {
		data := e.Data
		if data == nil {
			data = []byte{}
		}
		statements = append(statements, do(`insert into ib_log (invocation_id, seq, attempt, kind, step, at, size, data)
 select id, ?, ?, ?, ?, ?, ?, ? from ib_invocation where `+fence+" on conflict (invocation_id, seq) do nothing",
			append([]any{e.Seq, e.Attempt, string(e.Kind), storable(e.Step), e.At.UnixMilli(), len(data), data}, l.fenceArgs()...)...))
	}
	err := s.db.run(ctx, append(statements, s.db.tell(notice))...)
	if err == nil && held == 0 {
		err = l.lost()
	}
	if err != nil {
		return failed(err, "write a log")
	}
	l.NextSeq, l.LogBytes, l.LogCut = next, size, cut
	s.db.told(notice)
	return nil
}

// Log gives entries with Seq > after in their order: as many as fit into maxBytes of data, but at least one if there
// is one, and at most a thousand. Who wants all asks again until there is none. An invocation that does not exist has none.
func (s *Store) Log(ctx context.Context, id string, after int64, maxBytes int) ([]LogEntry, error) {
	// The sizes are summed up first, without the data.
	return s.entries(ctx, id, `select l.seq, l.attempt, l.kind, l.step, l.at, l.data from (
 select seq, cast(sum(size) over (order by seq) as bigint) as total, size from (
  select seq, size from ib_log where invocation_id = ? and seq > ? order by seq limit ?) as page) as sized
 join ib_log l on l.invocation_id = ? and l.seq = sized.seq
 where total <= ? or total = sized.size order by l.seq`, id, after, logPage, id, maxBytes)
}

// LogKindEntries gives all entries of some kinds in their order, as the steps that a timeline is made of.
func (s *Store) LogKindEntries(ctx context.Context, id string, kinds ...LogKind) ([]LogEntry, error) {
	if len(kinds) == 0 {
		return nil, nil
	}
	few := " and kind <> 'out'" // says that there is an index for it
	for _, kind := range kinds {
		if kind == LogOut {
			few = ""
		}
	}
	return s.entries(ctx, id, "select seq, attempt, kind, step, at, data from ib_log where invocation_id = ?"+few+
		" and kind in ("+marks(len(kinds))+") order by seq", append([]any{id}, anyOf(kinds)...)...)
}

func (s *Store) entries(ctx context.Context, id, text string, args ...any) ([]LogEntry, error) {
	if !wellFormed(id) {
		return nil, nil
	}
	var entries []LogEntry
	err := s.db.read(ctx, ask(func(r row) error {
		var e LogEntry
		var kind string
		var at int64
		err := r.Scan(&e.Seq, &e.Attempt, &kind, &e.Step, &at, &e.Data)
		e.Kind, e.At = LogKind(kind), timeOf(at)
		entries = append(entries, e)
		return err
	}, text, args...))
	return entries, failed(err, "read the log of invocation %s", id)
}
