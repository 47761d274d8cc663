package remote

import "os/exec"

// apart leaves ssh where it is.
func apart(*exec.Cmd) {}
