package source_test

import (
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/testbed"
)

func TestAttributesAreGits(t *testing.T) {
	t.Parallel()
	files := app()
	files[".gitattributes"] = file("*.bat text eol=crlf\n*.id ident\n*.u16 text working-tree-encoding=UTF-16LE\n")
	files["a.bat"] = file("one\ntwo\n")
	files["src/d.bat"] = file("deep\n")
	files["b.id"] = file("$Id$\n")
	files["c.u16"] = file("hi\n")
	files["nul\"l\n.txt"] = file("odd name\n")
	b := newBed(t, testbed.GitOptions{})
	b.init("app.git", files)
	for _, url := range []string{b.url("app.git"), b.path("app.git")} {
		tree := b.fetch(gitRepo(url, ""), nil)
		got := walkTree(t, tree.Context)
		require.Equal(t, "644 one\r\ntwo\r\n", got["a.bat"])
		require.Contains(t, got["b.id"], "$Id: ")
		require.Equal(t, "644 h\x00i\x00\n\x00", got["c.u16"])
		require.Equal(t, "644 odd name\n", got["nul\"l\n.txt"])
		require.Equal(t, "755 #!/bin/sh\n", got["run.sh"])
		require.Equal(t, "-> /etc/passwd", got["abs"])
		require.Equal(t, "644 unicode\n", got["src/grüße 世界.txt"])
		require.NotContains(t, got, ".git")
	}
	src := gitRepo(b.url("app.git"), "")
	src.GitRepo.Workdir = "src" // the root's attributes are for it too
	tree := walkTree(t, b.fetch(src, nil).Context)
	require.Equal(t, "644 deep\n", tree["deep/er/a.txt"])
	require.Equal(t, "644 deep\r\n", tree["d.bat"])

	b.fetcher.LookPath = withoutGit
	f := b.fails(fault.Invalid, gitRepo(b.url("app.git"), ""), nil)
	require.Contains(t, f.Message, ".gitattributes:1: eol=crlf needs the git executable")
	require.Contains(t, f.Hint, "install git")
}

func TestAttributesThatChangeNothing(t *testing.T) {
	t.Parallel()
	files := app()
	files[".gitattributes"] = file("* text=auto\n*.sh text eol=lf\n*.png binary\n# *.bat eol=crlf\n*.x -text -ident diff=x\n*.key filter=git-crypt\n")
	files["win.txt"] = file("a\r\nb\n")
	files["docs/.gitattributes"] = file("*.bat eol=crlf\n")
	files["docs/x.bat"] = file("x\n")
	b := newBed(t, testbed.GitOptions{})
	b.init("app.git", files)
	b.fetcher.LookPath = withoutGit
	src := gitRepo(b.url("app.git"), "")
	src.GitRepo.Workdir = "src"
	b.fetch(src, nil) // docs is no part of the context, and what is not checked out needs no git
	require.Contains(t, b.events.text(), "git-crypt")
	b.fails(fault.Invalid, gitRepo(b.url("app.git"), ""), nil)
}

const lfsPointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"

func TestLFSPointersAreNotTheFile(t *testing.T) {
	t.Parallel()
	files := app()
	files[".gitattributes"] = file("*.bin filter=lfs diff=lfs merge=lfs -text\n")
	files["data/model.bin"] = file(lfsPointer)
	files["data/plain.bin"] = file("never was in LFS\n")
	b := newBed(t, testbed.GitOptions{})
	b.init("app.git", files)
	for name, look := range map[string]func(string) (string, error){"no git": withoutGit, "no git-lfs": withoutLFS} {
		b.fetcher.LookPath = look
		f := b.fails(fault.Invalid, gitRepo(b.url("app.git"), ""), nil)
		require.Contains(t, f.Message, "data/model.bin is kept in Git LFS", name)
		require.Contains(t, f.Hint, "git-lfs")
	}
	src := buildparams.Source{GitRepo: &buildparams.GitRepo{URL: b.url("app.git"), Workdir: "src"}}
	b.fetch(src, nil)

	b.commit("app.git", testbed.GitCommit{Remove: []string{".gitattributes"}})
	tree := b.fetch(gitRepo(b.url("app.git"), ""), nil)
	require.Equal(t, lfsPointer, read(t, tree.Context, "data/model.bin"), "without the attribute it is a file like others")
}

func TestHostileConfigurationDoesNothing(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.GitOptions{})
	marker := t.TempDir() + "/ran"
	run := "sh -c 'touch " + marker + "; cat'"
	files := app()
	files[".gitattributes"] = file("*.bat eol=crlf\n*.txt filter=evil\n")
	_, err := testbed.InitRepo(files, b.path("app.git"), testbed.RepoOptions{Config: map[string]string{
		"filter.evil.smudge": run, "filter.evil.required": "true", "core.fsmonitor": run, "core.sshCommand": run,
	}})
	require.NoError(t, err)
	tree := b.fetch(gitRepo(b.path("app.git"), ""), nil)
	require.Equal(t, "one\n", read(t, tree.Context, "main.txt"))
	require.NoFileExists(t, marker)
}

func TestSubmodules(t *testing.T) {
	t.Parallel()
	for name, look := range map[string]func(string) (string, error){"with git": nil, "without git": withoutGit} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const password = "canary-Passw0rd"
			b := newBed(t, testbed.GitOptions{User: "ann", Password: password})
			b.fetcher.LookPath = look
			inner := b.init("inner.git", fstest.MapFS{"inner.txt": file("inner\n")})
			b.commit("inner.git", testbed.GitCommit{Files: fstest.MapFS{"inner.txt": file("newer\n")}})
			_ = b.init("lib.git", fstest.MapFS{"lib.txt": file("lib\n"), ".gitmodules": file("[submodule \"inner\"]\n\tpath = in\n\turl = ../inner.git\n")})
			lib := b.commit("lib.git", testbed.GitCommit{Submodules: map[string]string{"in": inner}})
			b.init("app.git", app())
			b.commit("app.git", testbed.GitCommit{
				Files:      fstest.MapFS{".gitmodules": file("[submodule \"lib\"]\n\tpath = src/lib\n\turl = ../lib.git\n[submodule \"gone\"]\n\tpath = gone\n\turl = ../gone.git\n")},
				Submodules: map[string]string{"src/lib": lib, "gone": inner},
			})
			src := gitRepo(b.url("app.git"), "")
			src.GitRepo.Username, src.GitRepo.Workdir = "ann", "src"
			secrets := credentials(password)
			tree := walkTree(t, b.fetch(src, secrets).Context)
			require.Equal(t, "644 lib\n", tree["lib/lib.txt"])
			require.Equal(t, "644 inner\n", tree["lib/in/inner.txt"])
			require.Equal(t, "dir 755", tree["lib/in"])

			src.GitRepo.Workdir = ""
			f := b.fails(fault.NotFound, src, secrets)
			require.Contains(t, f.Message, "submodule gone")
			src.GitRepo.Workdir, src.GitRepo.Dockerfile = "src/lib/in", "src/lib/lib.txt"
			require.Equal(t, map[string]string{"inner.txt": "644 inner\n"}, walkTree(t, b.fetch(src, secrets).Context))
			requireNowhere(t, password, b.fetcher.CacheDir, b.dir)
		})
	}
}

func TestSubmodulesOfStrangers(t *testing.T) {
	t.Parallel()
	const password = "canary-Passw0rd"
	b := newBed(t, testbed.GitOptions{User: "ann", Password: password})
	other := newBed(t, testbed.GitOptions{User: "ann", Password: password})
	id := other.init("lib.git", fstest.MapFS{"x": file("x")})
	local := b.init("local.git", fstest.MapFS{"x": file("x")})
	for url, want := range map[string]struct {
		kind fault.Kind
		says string
	}{
		other.url("lib.git"):               {fault.Denied, "submodule lib"}, // the password is for the parent's host only
		"file://" + b.path("local.git"):    {fault.Invalid, "local path"},
		b.path("local.git"):                {fault.Invalid, "local path"},
		"ext::sh -c touch% /tmp/x":         {fault.Invalid, "submodule lib"},
		"-upload-pack=x":                   {fault.Invalid, "dash"},
		"../../../../../../../etc/lib.git": {fault.Invalid, "leaves the host"},
	} {
		name := "app.git"
		_, err := testbed.InitRepo(fstest.MapFS{
			"Dockerfile": file("FROM scratch\n"), ".gitmodules": file("[submodule \"lib\"]\n\tpath = lib\n\turl = " + url + "\n"),
		}, b.path(name), testbed.RepoOptions{})
		require.NoError(t, err)
		commit := id
		if want.kind == fault.Invalid {
			commit = local
		}
		b.commit(name, testbed.GitCommit{Submodules: map[string]string{"lib": commit}})
		src := gitRepo(b.url(name), "")
		src.GitRepo.Username = "ann"
		f := b.fails(want.kind, src, credentials(password))
		require.Contains(t, f.Message, want.says, url)
	}
	require.Equal(t, 0, other.server.Requests().InfoRefs)
	require.Positive(t, other.server.Requests().Denied)
}
