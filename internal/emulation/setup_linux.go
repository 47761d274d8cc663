package emulation

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"

	"imagebuilder/internal/fault"
)

// fsType is what Linux calls the file system, and its kernel module.
const fsType = "binfmt_misc"

func (m Machine) mount() error {
	err := unix.Mount(fsType, m.Binfmt, fsType, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENODEV), errors.Is(err, fs.ErrNotExist):
		return fault.New(fault.NotFound, "set up emulation: this kernel has no %s: %w", fsType, err).
			WithHint("%s && %s", asRoot("modprobe "+fsType), asRoot(Command))
	default:
		return m.refused("mount "+fsType+" at "+m.Binfmt, err)
	}
}

func readOnly(err error) bool { return errors.Is(err, unix.EROFS) }
