//go:build !linux

package emulation

import "errors"

// mount is never come to: Setup ends before.
func (m Machine) mount() error { return errors.ErrUnsupported }

func readOnly(error) bool { return false }
