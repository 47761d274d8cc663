//go:build unix && !linux

package plugin

import "syscall"

// isolated puts a plugin into a process group of its own, so that a terminal's Ctrl-C reaches only the
// host, which then cancels. That the host has died the plugin sees by itself here.
func isolated() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
