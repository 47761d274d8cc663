package emulation_test

import (
	"testing"
	"testing/fstest"

	"github.com/containerd/platforms"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/emulation"
)

func TestEmulated(t *testing.T) {
	t.Parallel()
	entry := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	binfmt := fstest.MapFS{
		"qemu-aarch64": entry("enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POF\noffset 0\n"),
		"qemu-arm":     entry("disabled\ninterpreter /usr/bin/qemu-arm-static\nflags: POF\n"),
		"qemu-s390x":   entry("enabled\ninterpreter /usr/bin/qemu-s390x-static\nflags: OC\n"),
		"status":       entry("enabled\n"),
	}
	got := emulation.Emulated(binfmt)
	require.Len(t, got, 1, "arm is disabled; s390x is not fixed, so it is not found inside an image")
	require.Equal(t, "linux/arm64", platforms.Format(got[0]))
	require.Empty(t, emulation.Emulated(fstest.MapFS{}))
}

func TestContains(t *testing.T) {
	t.Parallel()
	ps := emulation.Native()
	require.True(t, emulation.Contains(ps, platforms.DefaultSpec()))
	require.False(t, emulation.Contains(ps, platforms.MustParse("linux/loong64")))
}
