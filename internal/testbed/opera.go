package testbed

import (
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

// Turn is one of the versions, for a test whose nodes do not care which opera runs them: tests take turns, by their names.
func Turn(test string, versions []Opera) []Opera {
	turn := crc32.ChecksumIEEE([]byte(test)) % uint32(len(versions))
	return versions[turn : turn+1]
}

// Operas are the environments with every version of opera: with the newest ansible-core, and if older is true with the
// oldest one too.
func Operas(t T, older bool) []Opera {
	t.Helper()
	cores := coreVersions()
	if !older {
		cores = cores[:1]
	}
	var all []Opera
	for _, core := range cores {
		for _, version := range operaVersions() {
			all = append(all, environment(t, "opera", version, core))
		}
	}
	return all
}

// Pairs are the versions of opera, the newest with the newest ansible-core and each older one with the oldest: for nodes on hosts, where
// every version of both is to be seen, but not each with each.
func Pairs(t T) []Opera {
	t.Helper()
	return pairs(t, "opera", operaVersions())
}

// OpenStackOperas are the oldest and the newest pair, with what library/openstack takes besides.
func OpenStackOperas(t T) []Opera {
	t.Helper()
	versions := operaVersions()
	return pairs(t, "opera-openstack", []string{versions[0], versions[len(versions)-1]})
}

func pairs(t T, kind string, versions []string) []Opera {
	t.Helper()
	cores := coreVersions()
	var all []Opera
	for i, version := range versions {
		core := cores[len(cores)-1]
		if i == len(versions)-1 {
			core = cores[0]
		}
		all = append(all, environment(t, kind, version, core))
	}
	return all
}

// environment is one that `make opera` or `make opera-openstack` has made.
func environment(t T, kind, version, core string) Opera {
	t.Helper()
	root, err := RepoRoot()
	if err != nil {
		t.Fatalf("%v", err)
	}
	folder := filepath.Join(root, ".work", kind)
	if core != coreVersions()[0] {
		folder += "-core" + core
	}
	env := filepath.Join(folder, "opera-"+version)
	if _, err := os.Stat(filepath.Join(env, "complete")); err != nil {
		t.Fatalf("opera %s with ansible-core %s is not here: %v; make %s makes it", version, core, err, kind)
	}
	return Opera{Version: version, Core: core, Bin: filepath.Join(env, "bin")}
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
