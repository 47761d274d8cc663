package emulation_test

import (
	"testing"
	"testing/fstest"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/emulation"
)

// What Linux 6.18 shows of Debian 12's interpreters.
const (
	aarch64 = "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POF\noffset 0\n" +
		"magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n"
	arm = "enabled\ninterpreter /usr/libexec/qemu-binfmt/arm-binfmt-P\nflags: POF\noffset 0\n" +
		"magic 7f454c4601010100000000000000000002002800\nmask ffffffffffffff00fffffffffffffffffeffffff\n"
	ppc64le = "enabled\ninterpreter /usr/libexec/qemu-binfmt/ppc64le-binfmt-P\nflags: POF\noffset 0\n" +
		"magic 7f454c4602010100000000000000000002001500\nmask fffffffffffffffcfffffffffffffffffeffff00\n"
	s390x = "enabled\ninterpreter /usr/libexec/qemu-binfmt/s390x-binfmt-P\nflags: POF\noffset 0\n" +
		"magic 7f454c4602020100000000000000000000020016\nmask fffffffffffffffcfffffffffffffffffffeffff\n"
)

func TestEmulated(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"not mounted", nil, ""},
		{"nothing registered", map[string]string{"status": "enabled\n"}, ""},
		{"Debian's", map[string]string{"status": "enabled\n", "qemu-aarch64": aarch64, "qemu-arm": arm, "qemu-ppc64le": ppc64le, "qemu-s390x": s390x},
			"linux/arm/v6, linux/arm/v7, linux/arm64, linux/ppc64le, linux/s390x"},
		{"under another name", map[string]string{"qemu-aarch64-static": aarch64}, "linux/arm64"},
		{"switched off", map[string]string{"qemu-arm": "disabled" + arm[len("enabled"):], "qemu-s390x": s390x}, "linux/s390x"},
		{"all switched off", map[string]string{"status": "disabled\n", "qemu-aarch64": aarch64}, ""},
		{"without F", map[string]string{"qemu-s390x": "enabled\ninterpreter /usr/bin/qemu-s390x\nflags: OC\noffset 0\n" +
			"magic 7f454c4602020100000000000000000000020016\nmask fffffffffffffffcfffffffffffffffffffeffff\n"}, ""},
		{"twice", map[string]string{"a": aarch64, "b": aarch64}, "linux/arm64"},
		{"other things", map[string]string{
			"python3.11": "enabled\ninterpreter /usr/bin/python3.11\nflags: \noffset 0\nmagic a70d0d0a\n",
			"jar":        "enabled\ninterpreter /usr/bin/jexec\nflags: F\nextension .jar\n",
			"elf":        "enabled\nflags: F\noffset 0\nmagic 7f454c460201010000000000000000000200b700\nmask ffffffff00000000000000000000000000000000\n",
			"short":      "enabled\nflags: F\noffset 0\nmagic 7f454c46\n",
			"later":      "enabled\nflags: F\noffset 4\nmagic 7f454c460201010000000000000000000200b700\n",
		}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			binfmt := fstest.MapFS{}
			for name, text := range tt.files {
				binfmt[name] = &fstest.MapFile{Data: []byte(text)}
			}
			require.Equal(t, tt.want, emulation.Names(emulation.Emulated(binfmt)))
		})
	}
}

func TestContains(t *testing.T) {
	t.Parallel()
	ps := emulation.Native()
	require.True(t, emulation.Contains(ps, platforms.DefaultSpec()))
	require.False(t, emulation.Contains(ps, platforms.MustParse("linux/loong64")))
	require.Len(t, emulation.Usual(), 7)
}

func TestRuns(t *testing.T) {
	t.Parallel()
	tests := []struct {
		able, p string
		want    bool
	}{
		{"linux/amd64", "linux/amd64", true},
		{"linux/amd64", "linux/amd64/v3", true},
		{"linux/amd64", "linux/386", false},
		{"linux/arm64", "linux/arm64/v8", true},
		{"linux/arm64", "linux/arm/v7", false},
		{"linux/arm/v7", "linux/arm/v6", true},
		{"linux/arm/v7", "linux/arm", true},
		{"linux/arm/v6", "linux/arm/v7", false},
		{"linux/amd64", "windows/amd64", false},
	}
	for _, tt := range tests {
		able := []ocispecs.Platform{platforms.Normalize(platforms.MustParse(tt.able))}
		require.Equal(t, tt.want, emulation.Runs(able, platforms.MustParse(tt.p)), "%s on %s", tt.p, tt.able)
	}
}
