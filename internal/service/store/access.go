package store

import (
	"context"
	"encoding/json"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
)

// Get gives one invocation. Error: ErrNotFound.
func (s *Store) Get(ctx context.Context, id string) (Invocation, error) {
	var inv Invocation
	if wellFormed(id) {
		st := ask(func(r row) error { return scan(r, &inv, true) }, "select "+columns+" from ib_invocation where id = ?", id)
		st.small = true
		if err := s.db.read(ctx, st); err != nil {
			return Invocation{}, failed(err, "read invocation %s", id)
		}
	}
	if inv.ID == "" {
		return Invocation{}, notFound(id)
	}
	return inv, nil
}

func notFound(id string) error { return about(fault.NotFound, ErrNotFound, "invocation %q", id) }

// Cancel ends a pending invocation at once, asks the worker of a running one to stop, and leaves one that has ended
// as it is. It gives the invocation as it is then. Error: ErrNotFound.
func (s *Store) Cancel(ctx context.Context, id string) (Invocation, error) {
	if !wellFormed(id) {
		return Invocation{}, notFound(id)
	}
	var inv Invocation
	var notice Notice
	// One statement for both states, so that none is missed between them.
	update := ask(func(r row) error { return scan(r, &inv, true) }, `update ib_invocation set cancel_requested = true,
 state = case state when 'pending' then 'cancelled' else state end,
 reason = case state when 'pending' then 'cancelled' else reason end,
 response = case state when 'pending' then ? else response end,
 failure = case state when 'pending' then ? else failure end,
 ended_at = case state when 'pending' then $now else ended_at end,
 sealed = case state when 'pending' then null else sealed end
 where id = ? and state in ('pending', 'in_progress') returning `+columns, cancelledResponse, failureOf(fault.Cancelled, cancelledResponse), id)
	err := s.db.inTransaction(ctx, func(tx transaction) error {
		if err := tx.run(ctx, update); err != nil || inv.ID == "" {
			return err
		}
		notice = Notice{NoticeCancel, id}
		if inv.State.Ended() {
			notice.Kind = NoticeState
			if err := deliver(ctx, tx, inv); err != nil {
				return err
			}
		}
		return tx.run(ctx, s.db.tell(notice))
	})
	switch {
	case err != nil:
		return Invocation{}, failed(err, "cancel invocation %s", id)
	case inv.ID == "":
		return s.Get(ctx, id)
	}
	s.db.told(notice)
	return inv, nil
}

// What people read of invocations that no worker has ended.
const (
	cancelledResponse = "the build was cancelled"
	expiredResponse   = "the build waited longer in the queue than it may"
	lostResponse      = "the workers of the build died, or lost the database, more often than it may be tried again"
)

// failureOf is an Invocation.Failure.
func failureOf(kind fault.Kind, message string) string {
	data, err := json.Marshal(result.ErrorResult{Kind: kind, Message: message})
	if err != nil { // it is two strings
		return ""
	}
	return string(data)
}

// Delete removes an invocation that has ended, with all that hangs on it. Errors: ErrNotFound, ErrRunning.
func (s *Store) Delete(ctx context.Context, id string) error {
	if !wellFormed(id) {
		return notFound(id)
	}
	state := ""
	err := s.db.inTransaction(ctx, func(tx transaction) error {
		var gone int64
		if err := tx.run(ctx, do("delete from ib_invocation where id = ? and "+hasEnded, id).counted(&gone)); err != nil {
			return err
		}
		if gone > 0 {
			return tx.run(ctx, hanging(id)...)
		}
		if err := tx.run(ctx, ask(func(r row) error { return r.Scan(&state) }, "select state from ib_invocation where id = ?", id)); err != nil {
			return err
		}
		if state == "" {
			return notFound(id)
		}
		return about(fault.Invalid, ErrRunning, "invocation %s", id).WithHint("cancel it first")
	})
	return failed(err, "delete an invocation")
}

const hasEnded = "state in ('success', 'failed', 'cancelled')"

// hanging removes what belongs to an invocation.
func hanging(id string) []*statement {
	var all []*statement
	for _, table := range []string{"ib_log", "ib_label", "ib_invocation_image"} {
		all = append(all, do("delete from "+table+" where invocation_id = ?", id))
	}
	return all
}
