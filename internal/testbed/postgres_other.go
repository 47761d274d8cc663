//go:build !unix

package testbed

import (
	"errors"
	"os/exec"
)

func giveToPostgres(...string) error { return nil }

func asPostgres(*exec.Cmd) error { return errors.New("the tests start PostgreSQL on Unix only") }
