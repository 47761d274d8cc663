package store

import (
	"context"
	"time"
)

// TouchSession moves the end of a session that is there. It brings none back: who signs out while another of his
// requests is on its way stays signed out.
func (s *Store) TouchSession(ctx context.Context, idHash []byte, expires time.Time) error {
	return failed(s.db.run(ctx, do("update ib_session set expires = ? where id_hash = ? and expires > $now",
		expires.UnixMilli(), idHash)), "keep a session")
}
