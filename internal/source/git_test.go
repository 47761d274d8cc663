package source_test

import (
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/source"
	"imagebuilder/internal/testbed"
)

func TestCheckoutIsWhatGitHas(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.GitOptions{})
	id := b.init("app.git", app())
	tree := b.fetch(gitRepo(b.url("app.git"), ""), nil)
	require.Equal(t, id, tree.Commit)
	require.Equal(t, b.url("app.git"), tree.URL)
	require.Equal(t, "Dockerfile", tree.DockerfileName)
	require.Equal(t, "FROM scratch\nCOPY . /\n", string(tree.Dockerfile))
	require.NotEmpty(t, tree.ContextKey)
	require.Equal(t, map[string]string{
		"Dockerfile":         "644 FROM scratch\nCOPY . /\n",
		"main.txt":           "644 one\n",
		"run.sh":             "755 #!/bin/sh\n",
		"abs":                "-> /etc/passwd",
		"linked":             "-> src",
		"src":                "dir 755",
		"src/grüße 世界.txt":   "644 unicode\n",
		"src/rel":            "-> ../main.txt",
		"src/deep":           "dir 755",
		"src/deep/er":        "dir 755",
		"src/deep/er/a.txt":  "644 deep\n",
		"docker":             "dir 755",
		"docker/Dockerfile":  "644 FROM scratch\nCOPY a /\n",
		"docker/dockerlink":  "-> Dockerfile",
		"docker/prod.docker": "644 x",
	}, walkTree(t, tree.Context))
}

func TestVersions(t *testing.T) {
	t.Parallel()
	for name, look := range map[string]func(string) (string, error){"with git": nil, "without git": withoutGit} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, testbed.GitOptions{})
			b.fetcher.LookPath = look
			first := b.init("app.git", app())
			tagged := b.commit("app.git", testbed.GitCommit{Files: fstest.MapFS{"main.txt": file("two\n")}, Tag: "v1", Message: "two"})
			annotated := b.commit("app.git", testbed.GitCommit{Files: fstest.MapFS{"main.txt": file("three\n")}, Annotated: "v2", Message: "three"})
			old := b.commit("app.git", testbed.GitCommit{Files: fstest.MapFS{"main.txt": file("four\n")}, Message: "four"})
			head := b.commit("app.git", testbed.GitCommit{Files: fstest.MapFS{"main.txt": file("five\n")}, Message: "five"})
			side := b.commit("app.git", testbed.GitCommit{Branch: "feature/x", Orphan: true, Files: app(), Message: "side"})
			for _, c := range []struct{ version, commit, main string }{
				{"", head, "five"}, {"HEAD", head, "five"}, {"main", head, "five"}, {"refs/heads/main", head, "five"},
				{"heads/main", head, "five"}, {"feature/x", side, "one"},
				{"v1", tagged, "two"}, {"tags/v1", tagged, "two"}, {"v2", annotated, "three"}, {"refs/tags/v2", annotated, "three"},
				{head, head, "five"}, {annotated, annotated, "three"}, {annotated[:10], annotated, "three"},
				{first, first, "one"}, {old, old, "four"}, {old[:7], old, "four"}, {first[:12], first, "one"},
			} {
				tree := b.fetch(gitRepo(b.url("app.git"), c.version), nil)
				require.Equal(t, c.commit, tree.Commit, c.version)
				require.Equal(t, c.main+"\n", read(t, tree.Context, "main.txt"), c.version)
			}
		})
	}
}

func TestVersionThatIsNotThere(t *testing.T) {
	t.Parallel()
	for name, look := range map[string]func(string) (string, error){"with git": nil, "without git": withoutGit} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, testbed.GitOptions{})
			b.fetcher.LookPath = look
			b.init("app.git", app())
			b.commit("app.git", testbed.GitCommit{Tag: "release-1.0", Files: fstest.MapFS{"x": file("x")}})
			f := b.fails(fault.NotFound, gitRepo(b.url("app.git"), "release-1.1"), nil)
			require.Contains(t, f.Hint, "did you mean release-1.0?")
			f = b.fails(fault.NotFound, gitRepo(b.url("app.git"), "nothing-like-it"), nil)
			require.Contains(t, f.Hint, "branches and tags: main, release-1.0")
			b.fails(fault.NotFound, gitRepo(b.url("app.git"), "0123456"), nil)
			b.fails(fault.NotFound, gitRepo(b.url("app.git"), "0123456789012345678901234567890123456789"), nil)
		})
	}
}

func TestCacheCostsOneListing(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.GitOptions{})
	first := b.init("app.git", app())
	count := func(version string) (string, testbed.GitRequests) {
		b.server.Reset()
		tree := b.fetch(gitRepo(b.url("app.git"), version), nil)
		return tree.Commit, b.server.Requests()
	}
	id, asked := count("main")
	require.Equal(t, first, id)
	require.Equal(t, testbed.GitRequests{InfoRefs: 1, UploadPack: 1}, asked, "a first fetch lists once and transfers once")
	_, asked = count("main")
	require.Equal(t, testbed.GitRequests{InfoRefs: 1}, asked)
	require.Contains(t, b.events.text(), "Cached:true")

	second := b.commit("app.git", testbed.GitCommit{Files: fstest.MapFS{"main.txt": file("two\n")}, Message: "two"})
	id, asked = count("main")
	require.Equal(t, second, id)
	require.Equal(t, testbed.GitRequests{InfoRefs: 1, UploadPack: 1}, asked)
	id, asked = count(first)
	require.Equal(t, first, id)
	require.Equal(t, testbed.GitRequests{InfoRefs: 1}, asked, "the mirror keeps what it had")

	forced := b.commit("app.git", testbed.GitCommit{Orphan: true, Files: fstest.MapFS{"Dockerfile": file("FROM scratch\n")}, Message: "forced"})
	id, _ = count("main")
	require.Equal(t, forced, id)
	_, asked = count(second[:8])
	require.Equal(t, 0, asked.Denied)
	_, asked = count(second[:8])
	require.Equal(t, testbed.GitRequests{InfoRefs: 1}, asked, "what a short id stands for is remembered")
}

func TestEmptyAndMissingRepository(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.GitOptions{})
	b.init("empty.git", nil)
	f := b.fails(fault.NotFound, gitRepo(b.url("empty.git"), ""), nil)
	require.Contains(t, f.Message, "empty")
	b.fails(fault.NotFound, gitRepo(b.url("none.git"), ""), nil)
	b.fails(fault.NotFound, gitRepo(b.path("empty.git"), ""), nil)
	b.fails(fault.NotFound, gitRepo(b.path("none.git"), ""), nil)
	b.fails(fault.Unavailable, gitRepo("http://127.0.0.1:1/app.git", ""), nil)
	b.fails(fault.Unavailable, gitRepo("http://no-such-host.invalid/app.git", ""), nil)
}

func TestPasswordOfGit(t *testing.T) {
	t.Parallel()
	const password = "canary-Passw0rd"
	for name, look := range map[string]func(string) (string, error){"with git": nil, "without git": withoutGit} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, testbed.GitOptions{User: "ann", Password: password})
			b.fetcher.LookPath = look
			b.init("app.git", app())
			old := b.commit("app.git", testbed.GitCommit{Files: fstest.MapFS{"main.txt": file("two\n")}})
			b.commit("app.git", testbed.GitCommit{Files: fstest.MapFS{"main.txt": file("three\n")}})
			src := gitRepo(b.url("app.git"), "")
			f := b.fails(fault.Denied, src, nil)
			require.Contains(t, f.Hint, "give username and password")
			src.GitRepo.Username = "ann"
			f = b.fails(fault.Denied, src, &source.Credentials{GitPassword: "wrong-" + password})
			require.NotContains(t, f.Error()+f.Hint, password)
			for _, version := range []string{"main", old, old[:9]} {
				src.GitRepo.Version = version
				b.fetch(src, &source.Credentials{GitPassword: password})
				requireNowhere(t, password, b.fetcher.CacheDir, b.dir)
			}
			b.fails(fault.Denied, src, nil) // what the mirror has is not for those who may not read the repository

			inURL := gitRepo("http://ann:"+password+"@"+b.server.URL[len("http://"):]+"/app.git", old)
			tree := b.fetch(inURL, nil)
			require.Equal(t, b.url("app.git"), tree.URL)
			requireNowhere(t, password, b.fetcher.CacheDir, b.dir)
			require.NotContains(t, b.events.text(), password)
		})
	}
}

func TestLocalRepository(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.GitOptions{})
	first := b.init("app.git", app())
	second := b.commit("app.git", testbed.GitCommit{Files: fstest.MapFS{"main.txt": file("two\n")}, Annotated: "v1"})
	b.fetcher.WorkDir = b.root
	for _, url := range []string{b.path("app.git"), "file://" + b.path("app.git"), "app.git", "./app.git"} {
		for version, commit := range map[string]string{"": second, "v1": second, first: first, first[:9]: first, "main": second} {
			tree := b.fetch(gitRepo(url, version), nil)
			require.Equal(t, commit, tree.Commit, "%s %s", url, version)
		}
	}
	b.fails(fault.NotFound, gitRepo("app.git", "0123456"), nil)
	b.fails(fault.NotFound, gitRepo("app.git", "mian"), nil)
}

func TestPathsOfRepository(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.GitOptions{})
	b.init("app.git", app())
	for _, c := range []struct {
		workdir, dockerfile string
		kind                fault.Kind
		says, hint          string
	}{
		{"../x", "", fault.Invalid, `".."`, "nothing outside"},
		{"src/../docker", "", fault.Invalid, `".."`, ""},
		{"/src", "", fault.Invalid, "absolute", ""},
		{"linked", "", fault.Invalid, "linked is a symlink", ""},
		{"linked/deep", "", fault.Invalid, "linked is a symlink", ""},
		{"abs", "", fault.Invalid, "abs is a symlink", ""},
		{"main.txt", "", fault.Invalid, "main.txt is not a folder", ""},
		{"scr", "", fault.NotFound, "folder scr does not exist", "folders there: src, docker"},
		{"src/deep/ar", "", fault.NotFound, "src/deep/ar", "src/deep/er"},
		{"no/such", "", fault.NotFound, "there is no no", ""},
		{"", "../Dockerfile", fault.Invalid, `".."`, ""},
		{"", "/etc/passwd", fault.Invalid, "absolute", ""},
		{"", "abs", fault.Invalid, "abs is a symlink", ""},
		{"", "docker/dockerlink", fault.Invalid, "docker/dockerlink is a symlink", ""},
		{"", "linked/x", fault.Invalid, "linked is a symlink", ""},
		{"", "docker", fault.Invalid, "docker is not a file", ""},
		{"", "main.txt/Dockerfile", fault.Invalid, "main.txt is not a folder", ""},
		{"", "docker/Dockerfil", fault.NotFound, "docker/Dockerfil does not exist", "files there: Dockerfile, docker/Dockerfile, docker/prod.docker"},
		{"", "a\x00b", fault.Invalid, "control", ""},
	} {
		src := gitRepo(b.url("app.git"), "")
		src.GitRepo.Workdir, src.GitRepo.Dockerfile = c.workdir, c.dockerfile
		f := b.fails(c.kind, src, nil)
		require.Contains(t, f.Message, c.says)
		require.Contains(t, f.Hint, c.hint)
	}
	src := buildparams.Source{GitRepo: &buildparams.GitRepo{URL: b.url("app.git"), Workdir: "./src//deep/", Dockerfile: "docker/Dockerfile"}}
	tree := b.fetch(src, nil)
	require.Equal(t, map[string]string{"er": "dir 755", "er/a.txt": "644 deep\n"}, walkTree(t, tree.Context))
	require.Equal(t, "FROM scratch\nCOPY a /\n", string(tree.Dockerfile))
	require.Equal(t, "docker/Dockerfile", tree.DockerfileName)
}
