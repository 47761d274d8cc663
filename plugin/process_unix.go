//go:build unix

package plugin

import "syscall"

func killGroup(pid int) { _ = syscall.Kill(-pid, syscall.SIGKILL) }
