package emulation

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzBinfmt reads what others wrote: no text ends the process, and what is taken for an interpreter of a program of
// ours would be registered as it stands, with the flag F.
func FuzzBinfmt(f *testing.F) {
	f.Add("enabled\nflags: F\noffset 0\nmagic 7f454c460201010000000000000000000200b700\n")
	files, err := filepath.Glob("/usr/lib/binfmt.d/qemu-*.conf")
	require.NoError(f, err)
	for _, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(f, err)
		f.Add(string(data))
	}
	f.Add(`,qemu-arm,M,,\x7fELF\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x28\x00,,/usr/bin/qemu-arm,`)
	f.Fuzz(func(t *testing.T, text string) {
		if e, ok := parseEntry(text); ok {
			require.NotEmpty(t, emulators[e.program])
		}
		if e, ok := parseConf(text); ok {
			require.NotEmpty(t, emulators[e.program])
			require.True(t, strings.HasPrefix(e.line, strings.TrimSpace(text)))
			again, ok := parseConf(e.line)
			require.True(t, ok)
			require.Equal(t, e, again)
		}
	})
}
