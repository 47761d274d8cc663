package plugin

import "syscall"

// isolated puts a plugin into a process group of its own, so that a terminal's Ctrl-C reaches only the
// host, which then cancels; and has the system terminate it when the host dies.
func isolated() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
