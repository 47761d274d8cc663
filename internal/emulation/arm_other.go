//go:build !linux || !arm64

package emulation

// runs32bit is asked on Linux on arm64 only.
func runs32bit() bool { return false }
