//go:build unix

package remote

import (
	"os/exec"
	"syscall"
)

// apart puts ssh into a process group of its own: a terminal's Ctrl-C reaches us alone, and the server is told.
func apart(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
