package emulation

import (
	"runtime"
	"syscall"
)

// The personalities of a process (linux/personality.h).
const (
	perLinux32 = 0x0008
	perAsk     = 0xffffffff // changes nothing, gives the present one
)

// runs32bit tells whether the processor has the 32-bit mode: the kernel gives a thread the personality of a 32-bit
// program only then (arch/arm64/kernel/sys.c).
func runs32bit() bool {
	runtime.LockOSThread() // a personality is a thread's
	defer runtime.UnlockOSThread()
	was, _, errno := syscall.RawSyscall(syscall.SYS_PERSONALITY, perAsk, 0, 0)
	if errno != 0 {
		return false
	}
	if _, _, errno = syscall.RawSyscall(syscall.SYS_PERSONALITY, perLinux32, 0, 0); errno != 0 {
		return false
	}
	_, _, _ = syscall.RawSyscall(syscall.SYS_PERSONALITY, was, 0, 0)
	return true
}
