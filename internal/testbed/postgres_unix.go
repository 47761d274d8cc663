//go:build unix

package testbed

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
)

// postgresUser is whom PostgreSQL runs as where this process is root's; ok is false where it is not.
func postgresUser() (uid, gid int, ok bool, err error) {
	if os.Geteuid() != 0 {
		return 0, 0, false, nil
	}
	account, err := user.Lookup("postgres")
	if err != nil {
		return 0, 0, false, fmt.Errorf("whom to run PostgreSQL as: %w", err)
	}
	if uid, err = strconv.Atoi(account.Uid); err != nil {
		return 0, 0, false, err
	}
	gid, err = strconv.Atoi(account.Gid)
	return uid, gid, err == nil, err
}

// giveToPostgres gives files to whom PostgreSQL runs as.
func giveToPostgres(paths ...string) error {
	uid, gid, ok, err := postgresUser()
	if err != nil || !ok {
		return err
	}
	for _, path := range paths {
		if err := os.Chown(path, uid, gid); err != nil {
			return err
		}
	}
	return nil
}

// asPostgres makes a command run as whom PostgreSQL runs as, in a session of its own: what interrupts the tests does not
// reach it, and it ends when they have.
func asPostgres(cmd *exec.Cmd) error {
	uid, gid, ok, err := postgresUser()
	if err != nil {
		return err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if ok {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)} //nolint:gosec // G115: the system's own ids
	}
	return nil
}
