package store

import "testing"

// RowsOf counts the rows of a table.
func RowsOf(t *testing.T, s *Store, table string) int {
	t.Helper()
	n := -1
	if err := s.db.read(t.Context(), ask(func(r row) error { return r.Scan(&n) }, "select count(*) from "+table)); err != nil {
		t.Fatal(err)
	}
	return n
}

// Rows counts what there is of invocations.
func Rows(t *testing.T, s *Store) map[string]int {
	t.Helper()
	rows := map[string]int{}
	for _, table := range []string{"ib_log", "ib_label", "ib_invocation_image", "ib_invocation"} {
		rows[table] = RowsOf(t, s, table)
	}
	return rows
}

// Write carries out SQL of a test.
func Write(t *testing.T, s *Store, text string) {
	t.Helper()
	if err := s.db.run(t.Context(), do(text)); err != nil {
		t.Fatal(err)
	}
}

// Tables are the names of all tables.
func Tables(t *testing.T, s *Store) (names []string) {
	t.Helper()
	text := "select name from sqlite_master where type = 'table' and name not like 'sqlite_%'"
	if _, ok := s.db.(*postgres); ok {
		text = "select table_name::text from information_schema.tables where table_schema = 'public'"
	}
	if err := s.db.read(t.Context(), ask(func(r row) error {
		var name string
		err := r.Scan(&name)
		names = append(names, name)
		return err
	}, text)); err != nil {
		t.Fatal(err)
	}
	return names
}

// FreezeInClaim leaves a transaction as a process does that is stopped in the middle of a claim.
func FreezeInClaim(t *testing.T, s *Store) (release func()) {
	t.Helper()
	holds, end, ended := make(chan error, 1), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.db.inTransaction(t.Context(), func(tx transaction) error { // PostgreSQL ends it
			err := tx.run(t.Context(), s.db.lock(lockClaim, "", false))
			holds <- err
			<-end
			return err
		})
	}()
	if err := <-holds; err != nil {
		t.Fatal(err)
	}
	return func() { close(end); <-ended }
}
