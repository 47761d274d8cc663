package store

import (
	"context"
	"encoding/json"
	"time"

	"imagebuilder/internal/fault"
)

// Session is somebody signed in on the web page.
type Session struct {
	IDHash    []byte // of what the cookie holds; the cookie's value itself is not stored
	Principal json.RawMessage
	CSRF      string
	Expires   time.Time
}

// PutSession writes a session, over one of the same hash.
func (s *Store) PutSession(ctx context.Context, v Session) error {
	return failed(s.db.run(ctx, do(`insert into ib_session (id_hash, principal, csrf, expires) values (?, ?, ?, ?)
 on conflict (id_hash) do update set principal = excluded.principal, csrf = excluded.csrf, expires = excluded.expires`,
		v.IDHash, string(v.Principal), v.CSRF, v.Expires.UnixMilli())), "write a session")
}

// GetSession gives a session that has not run out. Error: ErrNotFound.
func (s *Store) GetSession(ctx context.Context, idHash []byte) (Session, error) {
	var v Session
	err := s.db.read(ctx, ask(func(r row) error {
		var principal string
		var expires int64
		err := r.Scan(&v.IDHash, &principal, &v.CSRF, &expires)
		v.Principal, v.Expires = raw(principal), timeOf(expires)
		return err
	}, "select id_hash, principal, csrf, expires from ib_session where id_hash = ? and expires > $now", idHash))
	if err == nil && v.IDHash == nil {
		err = about(fault.NotFound, ErrNotFound, "the session")
	}
	return v, failed(err, "read a session")
}

// DeleteSession removes a session, if there is one.
func (s *Store) DeleteSession(ctx context.Context, idHash []byte) error {
	return failed(s.db.run(ctx, do("delete from ib_session where id_hash = ?", idHash)), "remove a session")
}
