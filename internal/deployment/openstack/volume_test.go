//go:build blueprints

package openstack_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

// TestDataVolume deploys servers with a volume, one after the other: what is on it stays. There is no Engine on them, so that each
// deployment ends behind the server.
func TestDataVolume(t *testing.T) {
	inTurn(t, func(t *testing.T, version testbed.Opera) {
		p := newProject(t, version, machine)
		volume := p.name + "-data"
		p.inputs["image"], p.inputs["flavor"], p.inputs["data_volume"] = "debian-12", "m1.bare", volume
		p.fails(t, []string{"machine: there is no volume " + volume}, "deploy")
		require.Empty(t, named(p.cloud.servers(t), p.name))

		id := demo.create(t, "volumev3", "/volumes", "volume", map[string]any{"name": volume, "size": 1})
		is := func(status string) func() bool {
			return func() bool {
				return demo.list(t, "volumev3", "/volumes/detail?name="+volume, "volumes")[0].Status == status
			}
		}
		require.Eventually(t, is("available"), patience, time.Second/2)
		noEngine := []string{"engine: no Docker Engine answers on 10.79.0."}
		p.fails(t, noEngine, "deploy", "--clean-state", "--force")
		require.True(t, is("in-use")())
		mounted := func() string {
			return onServer(t, p.outputs(t)["address"], "findmnt", "--noheadings", "--output", "FSTYPE,TARGET", "/var/lib/docker")
		}
		require.Equal(t, []string{"ext4", "/var/lib/docker"}, strings.Fields(mounted()))
		// That systemd will start an Engine after the mount, and none without, is all that can be seen where there is neither udev nor an Engine.
		units := onServer(t, p.outputs(t)["address"], "sudo systemctl daemon-reload && systemctl show --property Before var-lib-docker.mount && ls /run/systemd/generator/docker.service.requires")
		require.Regexp(t, `(?m)^Before=.*\bdocker\.service\b`, units)
		require.Contains(t, units, "\nvar-lib-docker.mount\n")
		onServer(t, p.outputs(t)["address"], "sudo", "sh", "-c", "'echo data >/var/lib/docker/kept'")
		p.fails(t, noEngine, "deploy", "--clean-state", "--force")
		require.Equal(t, []string{"ext4", "/var/lib/docker"}, strings.Fields(mounted()))
		p.undeploy(t)
		p.leavesNothing(t)
		require.Eventually(t, is("available"), patience, time.Second/2)

		p.inputs["data_volume"] = id
		p.fails(t, noEngine, "deploy", "--clean-state", "--force")
		require.Equal(t, "data\n", onServer(t, p.outputs(t)["address"], "cat", "/var/lib/docker/kept"))
		p.undeploy(t)
		p.leavesNothing(t)
		require.Eventually(t, is("available"), patience, time.Second/2)
	})
}

// TestVolumesDisk has disks of this machine mounted as a server has its data volume: a blank one gets a file system, once, and what is
// on one that is not blank stays.
func TestVolumesDisk(t *testing.T) {
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
	require.Contains(t, strings.SplitAfter(said, "fstab: 1, ")[1], "/data auto defaults,nofail,x-systemd.before=docker.service,x-systemd.required-by=docker.service 0 2\n")
}
