package cursor_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/service/store/cursor"
)

func TestCursor(t *testing.T) {
	t.Parallel()
	for _, at := range []int64{0, 1700000000123, 1<<63 - 1, -5} {
		id := uuid.NewString()
		gotAt, gotID, err := cursor.Read(cursor.Write(at, id))
		require.NoError(t, err)
		require.Equal(t, at, gotAt)
		require.Equal(t, id, gotID)
	}
	id := uuid.NewString()
	for _, text := range []string{
		"", "x", "AAAA", "\x00", strings.Repeat("A", 5000), cursor.Write(5, ""), cursor.Write(5, strings.ToUpper("018bcfe5-687b-7a78-9e3d-1b6c3d8e2f4a")),
		cursor.Write(5, id+" "), cursor.Write(5, "{"+id+"}"), cursor.Write(5, id) + "=",
	} {
		_, _, err := cursor.Read(text)
		require.Error(t, err, "%q", text)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(cursor.Write(1700000000123, "018bcfe5-687b-7a78-9e3d-1b6c3d8e2f4a"))
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		if at, id, err := cursor.Read(text); err == nil && cursor.Write(at, id) != text {
			t.Fatalf("%q is read as %d %s", text, at, id)
		}
	})
}
