// Package emulation tells which platforms this machine's kernel can run: its own, those of its older
// instruction sets, and those that binfmt_misc hands to an emulator.
//
// The list that a BuildKit worker gives is not to be believed for this: it never forgets a platform
// whose emulator was switched off (moby/buildkit v0.33.1, found by running it).
package emulation

import (
	"io/fs"
	"path"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// BinfmtDir is where Linux shows registered interpreters (Documentation/admin-guide/binfmt-misc.rst).
const BinfmtDir = "/proc/sys/fs/binfmt_misc"

// emulators map qemu's names of targets, as Debian registers them, to platforms.
var emulators = map[string][]string{
	"qemu-x86_64":  {"linux/amd64"},
	"qemu-i386":    {"linux/386"},
	"qemu-aarch64": {"linux/arm64"},
	"qemu-arm":     {"linux/arm/v7", "linux/arm/v6"},
	"qemu-ppc64le": {"linux/ppc64le"},
	"qemu-s390x":   {"linux/s390x"},
	"qemu-riscv64": {"linux/riscv64"},
	"qemu-mips64":  {"linux/mips64"},
}

// native are the platforms that a processor runs besides its own. arm64 is not here: many such
// processors have no 32-bit mode, so their arm is found only by asking.
var native = map[string][]string{
	"amd64": {"linux/amd64", "linux/386"},
	"386":   {"linux/386"},
	"arm":   {"linux/arm/v7", "linux/arm/v6"},
}

// Native are the platforms that this processor runs itself.
func Native() []ocispecs.Platform {
	if names, ok := native[runtime.GOARCH]; ok {
		return parse(names)
	}
	return parse([]string{"linux/" + runtime.GOARCH})
}

// Emulated are the platforms that an enabled interpreter serves inside containers too: one registered with the
// flag F, which keeps it open, so that it need not exist in the image. binfmt is the folder BinfmtDir.
func Emulated(binfmt fs.FS) []ocispecs.Platform {
	var names []string
	for name, targets := range emulators {
		data, err := fs.ReadFile(binfmt, path.Clean(name))
		if err == nil && usable(string(data)) {
			names = append(names, targets...)
		}
	}
	slices.Sort(names)
	return parse(names)
}

func usable(entry string) bool {
	enabled, fixed := false, false
	for line := range strings.Lines(entry) {
		line = strings.TrimSpace(line)
		enabled = enabled || line == "enabled"
		if flags, ok := strings.CutPrefix(line, "flags:"); ok {
			fixed = strings.Contains(flags, "F")
		}
	}
	return enabled && fixed
}

// Contains tells whether one of the platforms is p.
func Contains(ps []ocispecs.Platform, p ocispecs.Platform) bool {
	return slices.ContainsFunc(ps, platforms.OnlyStrict(platforms.Normalize(p)).Match)
}

func parse(names []string) []ocispecs.Platform {
	ps := make([]ocispecs.Platform, len(names))
	for i, name := range names {
		ps[i] = platforms.Normalize(platforms.MustParse(name))
	}
	return ps
}
