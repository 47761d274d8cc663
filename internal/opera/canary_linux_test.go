package opera_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

// canary is in every secret of these tests, and must be found nowhere but where it was put.
const canary = "cAnArY-5d1f0b7e"

// account is who may use the registry and the repositories.
const account = "robot"

// secrets are those of a deployment, by what they are for.
func secrets() map[string]string {
	return map[string]string{"registry": canary + "-of-the-registry", "git": canary + "-of-git", "build": canary + "-of-the-build", "wrong": canary + "-is-wrong"}
}

// traces are what a secret is found by: itself, and as a header for basic authentication has it.
func traces() [][]byte {
	all := [][]byte{[]byte(canary)}
	for _, value := range secrets() {
		all = append(all, []byte(base64.StdEncoding.EncodeToString([]byte(account+":"+value))), []byte(base64.StdEncoding.EncodeToString([]byte(value))))
	}
	return all
}

func hasTrace(data []byte) bool {
	return slices.ContainsFunc(traces(), func(trace []byte) bool { return bytes.Contains(data, trace) })
}

// vault is a project whose registry and repositories are for those who know the secrets.
type vault struct {
	*project
	private      *testbed.Registry
	gitURL       string
	registryData string // folder with everything that the registry has
}

func newVault(t *testing.T, p *project) *vault {
	t.Helper()
	v := &vault{project: p, registryData: t.TempDir()}
	v.private = testbed.NewRegistry(t, testbed.RegistryOptions{Dir: v.registryData, Basic: map[string]string{account: secrets()["registry"]}})
	git, err := testbed.StartGit(p.GitRoot, testbed.GitOptions{User: account, Password: secrets()["git"]})
	require.NoError(t, err)
	t.Cleanup(git.Close)
	v.gitURL = git.URL
	// Whoever wants to see more of Ansible sees no secret either.
	p.env = append(p.env, "ANSIBLE_LOG_PATH="+filepath.Join(p.setting("HOME"), "ansible.log"), "ANSIBLE_KEEP_REMOTE_FILES=1")
	return v
}

// setting is a variable of the environment that opera gets.
func (p *project) setting(name string) string { return testbed.Setting(p.env, name) }

// deployment are inputs that have a secret wherever one can be; say gives what stands there for it. The Dockerfile is one that
// cannot be built without.
func (v *vault) deployment(t *testing.T, tag, lastStep, registrySecret string, say func(secret string) string) map[string]any {
	t.Helper()
	base := v.Registry.Host + "/base/busybox:1" // of the registry that is open to all
	_, _ = v.Repository(t, tag+".git", fstest.MapFS{"Dockerfile": {Data: []byte("FROM busybox\nRUN --mount=type=secret,id=build,required=true grep -q of-the-build /run/secrets/build\n" + lastStep + "\n")}})
	return map[string]any{
		"source": map[string]any{"git_repo": map[string]any{"url": v.gitURL + "/" + tag + ".git", "username": account, "password": say("git")}},
		"target": map[string]any{
			"registry": map[string]any{"url": v.private.Host, "username": account, "password": say(registrySecret)},
			"images":   []any{map[string]any{"image": "app", "tag": tag, "base": base}},
		},
		"options": map[string]any{"secrets": map[string]any{"build": say("build")}, "cache": map[string]any{"mode": "inline"}},
	}
}

// TestNoSecretIsLeft deploys, well and badly, tells about it and undeploys, and looks for the secrets in all that is printed and
// left, and in the arguments of all processes in the meantime. Only what opera itself stores, its inputs, has literal
// ones: in a folder that nobody else may look into.
func TestNoSecretIsLeft(t *testing.T) {
	t.Parallel()
	for _, version := range testbed.Operas(t, true) {
		if version.Core == "2.16" && version.Version != "0.7.0" {
			continue // with the older core one is enough: what opera stores and says does not depend on it
		}
		t.Run(version.String(), func(t *testing.T) {
			t.Parallel()
			v := newVault(t, newProject(t, version))
			files := t.TempDir()
			for name, value := range secrets() {
				require.NoError(t, os.WriteFile(filepath.Join(files, name), []byte(value+"\n"), 0o600))
				v.env = append(v.env, "CANARY_"+name+"="+value)
			}
			stop := watchArguments(t)
			// With --verbose opera prints an operation's inputs itself, as info does: with references that is no harm.
			v.liveThrough(t, "references", false, func(secret string) string {
				if secret == "git" {
					return "file:" + filepath.Join(files, secret)
				}
				return "env:CANARY_" + secret
			}, "--verbose")
			v.requireNoTrace(t, false, v.opera(t, "info"))
			v.liveThrough(t, "literal", true, func(secret string) string { return secrets()[secret] })
			stop()
		})
	}
}

// liveThrough deploys to no avail, twice, then well, and takes it back.
func (v *vault) liveThrough(t *testing.T, tag string, literal bool, say func(secret string) string, flags ...string) {
	t.Helper()
	root, err := testbed.RepoRoot()
	require.NoError(t, err)
	deploy := func() (said string, code int) {
		t.Helper()
		arguments := append([]string{"deploy", "--clean-state", "--force", "-i", singleInput, single}, flags...)
		c := v.startCommand(t, filepath.Join(root, "scripts", "opera-private.sh"), arguments...)
		code = c.wait(t)
		return c.said(), code
	}
	quiet := v.env
	v.env = append(slices.Clone(quiet), "ANSIBLE_VERBOSITY=4") // opera understands nothing more then, but a failure

	v.inputs(t, singleInput, v.deployment(t, tag+"-denied", "", "wrong", say))
	said, code := deploy()
	require.NotZero(t, code, said)
	require.Contains(t, said, "denied")
	v.requireNoTrace(t, literal, said)

	v.inputs(t, singleInput, v.deployment(t, tag+"-failed", "RUN echo no; exit 3", "registry", say))
	said, code = deploy()
	require.NotZero(t, code, said)
	require.Contains(t, said, "exit")
	v.requireNoTrace(t, literal, said)

	v.env = quiet
	v.inputs(t, singleInput, v.deployment(t, tag, "RUN echo yes", "registry", say))
	said, code = deploy()
	require.Zero(t, code, said)
	v.requireNoTrace(t, literal, said+v.opera(t, "outputs"))
	require.Contains(t, v.registryHas(t), tag)

	said = v.opera(t, append([]string{"undeploy", "--force"}, flags...)...)
	v.requireNoTrace(t, literal, said)
	require.NotContains(t, v.registryHas(t), tag)
	require.FileExists(t, v.setting("ANSIBLE_LOG_PATH"))
}

// registryHas are the tags of app in the registry's own storage.
func (v *vault) registryHas(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(v.registryData, "docker", "registry", "v2", "repositories", "app", "_manifests", "tags"))
	if !os.IsNotExist(err) {
		require.NoError(t, err)
	}
	var tags []string
	for _, e := range entries {
		tags = append(tags, e.Name())
	}
	return tags
}

// requireNoTrace looks for secrets in what was said and in every file that a deployment may have written. The inputs are
// where they were put, and what opera stores of them if they are literal.
func (v *vault) requireNoTrace(t *testing.T, literal bool, said string) {
	t.Helper()
	require.False(t, hasTrace([]byte(said)), "opera said:\n%s", said)
	for _, folder := range []string{v.folder, v.setting("HOME"), v.setting("TMPDIR"), v.CacheDir, v.registryData, v.GitRoot} {
		require.NoError(t, filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
			require.NoError(t, err)
			info, err := d.Info()
			require.NoError(t, err)
			relative, err := filepath.Rel(v.folder, path)
			require.NoError(t, err)
			if relative == ".opera" || relative == ".image-builder" {
				require.Equal(t, fs.FileMode(0o700), info.Mode().Perm(), path)
			}
			if !info.Mode().IsRegular() || literal && (relative == singleInput || relative == filepath.Join(".opera", "inputs")) {
				return nil
			}
			data, err := os.ReadFile(path)
			require.NoError(t, err)
			require.False(t, hasTrace(data), "%s:\n%s", path, data)
			if unpacked, err := gunzip(data); err == nil { // a layer
				require.False(t, hasTrace(unpacked), path)
			}
			return nil
		}))
	}
	if literal {
		stored, err := os.ReadFile(filepath.Join(v.folder, ".opera", "inputs"))
		require.NoError(t, err)
		require.True(t, hasTrace(stored), "what opera stores is what is looked for elsewhere")
	}
	// What the person who deploys is told to keep, others cannot read.
	logs, err := filepath.Glob(filepath.Join(v.folder, ".image-builder", "logs", "*"))
	require.NoError(t, err)
	require.NotEmpty(t, logs)
	for _, log := range logs {
		info, err := os.Stat(log)
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o600), info.Mode().Perm(), log)
	}
}

func gunzip(data []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// watchArguments looks at the command lines of all processes until stop is called.
func watchArguments(t *testing.T) (stop func()) {
	t.Helper()
	watched := testbed.WatchArguments()
	return func() {
		t.Helper()
		for _, line := range watched.All() {
			require.False(t, hasTrace([]byte(line)), "a secret is an argument of a process: %s", line)
		}
	}
}
