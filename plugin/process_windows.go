package plugin

import "syscall"

// isolated keeps a console's Ctrl-C from the plugin, so that only the host gets it, which then cancels.
func isolated() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

// killGroup does nothing: there are no such groups here.
func killGroup(int) {}
