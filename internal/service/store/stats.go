package store

import (
	"context"
	"time"
)

// Stats is what there is, for metrics.
type Stats struct {
	Pending       int64         // wait to be started
	Running       int64         // are in progress
	OldestPending time.Duration // how long the oldest that may be claimed has waited; 0: none waits
}

// Stats counts invocations. It reads an index, all of it: about a tenth of a second for each million that is kept.
func (s *Store) Stats(ctx context.Context) (Stats, error) {
	var stats Stats
	var waited int64
	err := s.db.read(ctx, ask(func(r row) error {
		return r.Scan(&stats.Pending, &waited, &stats.Running)
	}, `select count(*), coalesce(max(case when not_before <= $now then $now - submitted_at else 0 end), 0),
 (select count(*) from ib_invocation where state = 'in_progress') from ib_invocation where state = 'pending'`))
	stats.OldestPending = time.Duration(waited) * time.Millisecond
	return stats, failed(err, "count invocations")
}
