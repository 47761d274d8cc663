package scalar_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/scalar"
)

func TestPlain(t *testing.T) {
	t.Parallel()
	for written, want := range map[string]struct {
		kind  scalar.Kind
		value string
	}{
		"": {scalar.Null, ""}, "~": {scalar.Null, ""}, "Null": {scalar.Null, ""},
		"TRUE": {scalar.Boolean, "true"}, "yes": {scalar.Text, "yes"},
		"+012": {scalar.Integer, "12"}, "-0": {scalar.Integer, "-0"}, "0o17": {scalar.Integer, "15"}, "0xfF": {scalar.Integer, "255"}, "0b1": {scalar.Text, "0b1"},
		"3.10": {scalar.Float, "3.10"}, ".5": {scalar.Float, "0.5"}, "-7.": {scalar.Float, "-7.0"}, "1e3": {scalar.Float, "1e3"},
		".inf": {scalar.NotFinite, ""}, ".NaN": {scalar.NotFinite, ""}, "1_000": {scalar.Text, "1_000"}, "2026-11-21": {scalar.Text, "2026-11-21"},
	} {
		kind, value := scalar.Plain(written)
		require.Equal(t, want.kind, kind, written)
		require.Equal(t, want.value, value, written)
	}
}

// FuzzPlain: whatever is a number is one to JSON too.
func FuzzPlain(f *testing.F) {
	for _, seed := range []string{"1", "+.5e-3", "0x1F", "0o7", "-00.", "1e999", "12345678901234567890"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, written string) {
		kind, value := scalar.Plain(written)
		if kind == scalar.Integer || kind == scalar.Float {
			var n json.Number
			require.NoError(t, json.Unmarshal([]byte(value), &n), "%q is %q", written, value)
		}
	})
}
