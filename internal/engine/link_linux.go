package engine

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// limitUnacknowledged bounds how long sent bytes may stay without an answer (RFC 5482).
func limitUnacknowledged(_, _ string, c syscall.RawConn) error {
	var set error
	if err := c.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(linkTimeout.Milliseconds()))
	}); err != nil {
		return err
	}
	return set
}
