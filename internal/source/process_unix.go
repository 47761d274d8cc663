//go:build unix && !linux

package source

import (
	"os/exec"
	"syscall"
)

// endTogether makes a program and all that it starts end together when the context ends. When this process is killed, git
// ends by itself as soon as it has nobody to write to: there is no signal for that here.
func endTogether(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
