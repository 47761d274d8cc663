// Package emulation tells which platforms this machine's kernel can run: its own, those of its older
// instruction sets, and those that binfmt_misc hands to an emulator. It also sets emulation up, with the
// emulators of the distribution: it mounts binfmt_misc and registers them, and installs nothing.
//
// The list that a BuildKit worker gives is not to be believed for this: it never forgets a platform
// whose emulator was switched off (moby/buildkit v0.33.1, found by running it).
package emulation

import (
	"io/fs"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// BinfmtDir is where Linux shows registered interpreters (Documentation/admin-guide/binfmt-misc.rst).
const BinfmtDir = "/proc/sys/fs/binfmt_misc"

// native are the platforms that a processor runs besides its own. arm64 is not here: many such
// processors have no 32-bit mode, so the kernel is asked.
var native = map[string][]string{
	"amd64": {"linux/amd64", "linux/386"},
	"386":   {"linux/386"},
	"arm":   {"linux/arm/v7", "linux/arm/v6"},
}

// Usual are the platforms that images are commonly built for.
func Usual() []ocispecs.Platform {
	return parse([]string{
		"linux/amd64", "linux/386", "linux/arm64", "linux/arm/v7", "linux/arm/v6", "linux/ppc64le", "linux/s390x",
	})
}

// Native are the platforms that this machine's processor runs itself.
func Native() []ocispecs.Platform {
	if names, ok := native[runtime.GOARCH]; ok {
		return parse(names)
	}
	names := []string{"linux/" + runtime.GOARCH}
	if runtime.GOARCH == "arm64" && runs32bit() {
		names = append(names, native["arm"]...)
	}
	return parse(names)
}

// Emulated are the platforms that an enabled interpreter serves inside containers too: one registered with the
// flag F, which keeps it open, so that it need not exist in the image. binfmt is the folder BinfmtDir.
func Emulated(binfmt fs.FS) []ocispecs.Platform {
	var names []string
	for _, e := range entries(binfmt) {
		if e.usable() {
			names = append(names, emulators[e.program]...)
		}
	}
	slices.Sort(names)
	return parse(slices.Compact(names))
}

// Contains tells whether one of the platforms is p.
func Contains(ps []ocispecs.Platform, p ocispecs.Platform) bool {
	return slices.ContainsFunc(ps, platforms.OnlyStrict(platforms.Normalize(p)).Match)
}

// Runs tells whether a machine that runs programs of some platforms runs those of p. Of the variants of a processor only
// arm's are told apart: whether an amd64 is new enough for v3 shows when a program wants it, and most are.
func Runs(able []ocispecs.Platform, p ocispecs.Platform) bool {
	p = platforms.Normalize(p)
	return slices.ContainsFunc(able, func(a ocispecs.Platform) bool {
		same := a.OS == p.OS && a.Architecture == p.Architecture
		return same && (p.Architecture != "arm" || platforms.Only(a).Match(p))
	})
}

// Names are the platforms for people: linux/arm64, linux/s390x.
func Names(ps []ocispecs.Platform) string {
	names := make([]string, len(ps))
	for i, p := range ps {
		names[i] = platforms.Format(p)
	}
	return strings.Join(names, ", ")
}

func parse(names []string) []ocispecs.Platform {
	ps := make([]ocispecs.Platform, len(names))
	for i, name := range names {
		ps[i] = platforms.Normalize(platforms.MustParse(name))
	}
	return ps
}
