//go:build blueprints

package openstack_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDataVolume has disks of this machine mounted as a server has its data volume: a blank one gets a file system, once, and what is
// on one that is not blank stays. The OpenStack of the tests has no volumes that could be attached.
func TestDataVolume(t *testing.T) {
	t.Parallel()
	script := filepath.Join(root, "library", "openstack", "playbooks", "data_volume.sh")
	// In a mount namespace of its own, and with an fstab of its own.
	out, err := exec.CommandContext(t.Context(), "unshare", "--mount", "bash", "-euc", `
		script=$1 folder=$2
		cd "$folder"
		truncate -s 16M blank used
		echo data | dd of=used bs=1 seek=4096 conv=notrunc status=none
		: >fstab
		mount --bind fstab /etc/fstab
		blank=$(losetup -f --show blank)
		trap 'umount data 2>/dev/null || true; losetup -d "$blank"; [ -z "${used-}" ] || losetup -d "$used"' EXIT
		used=$(losetup -f --show used)
		volume() { sh "$script" none "$1" "$folder/$2" 2>&1 || echo "refused $?"; }

		echo "first: $(volume "$blank" data)"
		echo kept >data/file
		echo "again: $(volume "$blank" data)"
		umount data
		echo "after a restart: $(volume "$blank" data)"
		echo "file: $(cat data/file), fstab: $(wc -l <fstab), $(cut -d' ' -f2- fstab)"
		umount data
		echo old >data/file
		echo "in use: $(volume "$blank" data)"
		echo "not blank: $(volume "$used" other)"
		echo "data: $(dd if=used bs=1 skip=4096 count=4 status=none)"
		echo "not there: $(volume - other)"
	`, "test", script, t.TempDir()).CombinedOutput()
	require.NoError(t, err, string(out))
	said := string(out)
	for _, want := range []string{
		"first: changed\n", "again: \n", "after a restart: changed\n", "file: kept, fstab: 1, ",
		"has files already: the volume must be there before Docker's Engine\nrefused 1\n",
		"is not blank, and has no file system that this server knows: it is left as it is\nrefused 1\n", "data: data\n",
		"not there: volume none is attached, but this server has no such disk\nrefused 1\n",
	} {
		require.Contains(t, said, want)
	}
	require.Contains(t, strings.SplitAfter(said, "fstab: 1, ")[1], "/data auto defaults,nofail 0 2\n")
}
