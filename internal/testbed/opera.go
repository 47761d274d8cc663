package testbed

import (
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml"
)

// Opera is an environment with a version of the xOpera orchestrator, which scripts/opera.sh has made.
type Opera struct {
	Version string // of opera
	Core    string // of ansible-core: the first two numbers
	Bin     string // folder with the commands
}

// String names it, for a test.
func (o Opera) String() string { return "opera " + o.Version + " core " + o.Core }

// Versions that environments are made for. The first of ansible-core is the one that scripts/opera.sh takes by itself.
func operaVersions() []string { return []string{"0.6.6", "0.6.9", "0.7.0"} }
func coreVersions() []string  { return []string{"2.19", "2.16"} }

// OpenStackOperas are the environments with what library/openstack takes besides: those of the oldest and the newest version of opera.
func OpenStackOperas(t T) []Opera {
	t.Helper()
	root, err := RepoRoot()
	if err != nil {
		t.Fatalf("%v", err)
	}
	var all []Opera
	for _, version := range []string{operaVersions()[0], operaVersions()[len(operaVersions())-1]} {
		env := filepath.Join(root, ".work", "opera-openstack", "opera-"+version)
		if _, err := os.Stat(filepath.Join(env, "complete")); err != nil {
			t.Fatalf("opera %s with openstacksdk is not here: %v; OPENSTACK=1 scripts/opera.sh makes it", version, err)
		}
		all = append(all, Opera{Version: version, Core: coreVersions()[0], Bin: filepath.Join(env, "bin")})
	}
	return all
}

// Turn is one of the versions, for a test whose nodes do not care which opera runs them: tests take turns, by their names.
func Turn(test string, versions []Opera) []Opera {
	turn := crc32.ChecksumIEEE([]byte(test)) % uint32(len(versions))
	return versions[turn : turn+1]
}

// Operas are the environments with every version of opera: with the newest ansible-core, and if older is true with the
// oldest one too.
func Operas(t T, older bool) []Opera {
	t.Helper()
	root, err := RepoRoot()
	if err != nil {
		t.Fatalf("%v", err)
	}
	var all []Opera
	for i, core := range coreVersions() {
		folder := filepath.Join(root, ".work", "opera")
		if i > 0 {
			if !older {
				break
			}
			folder += "-core" + core
		}
		for _, version := range operaVersions() {
			env := filepath.Join(folder, "opera-"+version)
			if _, err := os.Stat(filepath.Join(env, "complete")); err != nil {
				t.Fatalf("opera %s with ansible-core %s is not here: %v; %s makes it", version, core, err, operaCommand(core, folder))
			}
			all = append(all, Opera{Version: version, Core: core, Bin: filepath.Join(env, "bin")})
		}
	}
	return all
}

func operaCommand(core, folder string) string {
	if core == coreVersions()[0] {
		return "scripts/opera.sh"
	}
	return fmt.Sprintf("make opera, or ANSIBLE_CORE=%s.x scripts/opera.sh %s,", core, folder)
}

// OperaOutputs are the outputs of a deployment, as `opera outputs` prints them.
func OperaOutputs[V any](t T, said string) map[string]V {
	t.Helper()
	var all map[string]struct {
		Value V `yaml:"value"`
	}
	if err := yaml.Unmarshal([]byte(said), &all); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	values := map[string]V{}
	for name, output := range all {
		values[name] = output.Value
	}
	return values
}

// Setting is a variable of an environment; of one that is there twice the last counts, as for a process.
func Setting(env []string, name string) string {
	value := ""
	for _, v := range env {
		if after, ok := strings.CutPrefix(v, name+"="); ok {
			value = after
		}
	}
	return value
}
