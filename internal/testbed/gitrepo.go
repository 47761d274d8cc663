package testbed

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"strings"
	"time"
)

// gitAuthor and gitDate make commits the same on every machine, so that tests and demos can name them.
const gitAuthor = "Image Builder <image-builder@example.com>"

// gitDate is used where a commit has no date of its own: 2026-01-02 03:04:05 UTC.
func gitDate() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

// RepoOptions say how a repository is made.
type RepoOptions struct {
	Branch string            // that HEAD names; default main
	Config map[string]string // as uploadpack.allowAnySHA1InWant
	Date   time.Time         // of the first commit; default a fixed date
}

// GitCommit is one commit to add to a repository.
type GitCommit struct {
	Branch     string            // that is moved to the commit; default main
	Files      fs.FS             // regular files, folders and symlinks that are added or replaced; may be nil
	Remove     []string          // paths to take away; "" takes away everything
	Submodules map[string]string // path → commit; .gitmodules is an ordinary file of Files
	Orphan     bool              // the commit has no parent, and the branch is moved to it by force
	Message    string            // default "change"
	Date       time.Time         // default a fixed date
	Tag        string            // lightweight tag on the commit
	Annotated  string            // annotated tag on the commit
}

// InitRepo makes a bare repository of files with one commit and returns the commit's id, which depends
// on nothing but the arguments. Without files the repository is empty and the id is "".
func InitRepo(files fs.FS, bare string, opts RepoOptions) (string, error) {
	if opts.Branch == "" {
		opts.Branch = "main"
	}
	if _, err := runGit(nil, "init", "--quiet", "--bare", "--template=", "--initial-branch="+opts.Branch, "--", bare); err != nil {
		return "", err
	}
	for key, value := range opts.Config {
		if _, err := runGit(nil, "--git-dir="+bare, "config", key, value); err != nil {
			return "", err
		}
	}
	if files == nil {
		return "", nil
	}
	return CommitTo(bare, GitCommit{Branch: opts.Branch, Files: files, Date: opts.Date, Message: "start", Orphan: true})
}

// CommitTo adds a commit to a bare repository and returns its id.
func CommitTo(bare string, c GitCommit) (string, error) {
	if c.Branch == "" {
		c.Branch = "main"
	}
	if c.Message == "" {
		c.Message = "change"
	}
	if c.Date.IsZero() {
		c.Date = gitDate()
	}
	stream, err := fastImport(bare, c)
	if err != nil {
		return "", err
	}
	if _, err := runGit(stream, "--git-dir="+bare, "fast-import", "--quiet", "--force"); err != nil {
		return "", err
	}
	out, err := runGit(nil, "--git-dir="+bare, "rev-parse", "--verify", "refs/heads/"+c.Branch)
	return strings.TrimSpace(string(out)), err
}

// fastImport writes the commit as git fast-import reads it: no work tree, no index, no configuration.
func fastImport(bare string, c GitCommit) (*bytes.Buffer, error) {
	var b bytes.Buffer
	who := fmt.Sprintf("%s %d +0000", gitAuthor, c.Date.Unix())
	ref := "refs/heads/" + c.Branch
	if c.Orphan {
		fmt.Fprintf(&b, "reset %s\n\n", ref)
	}
	fmt.Fprintf(&b, "commit %s\nmark :1\nauthor %s\ncommitter %s\ndata %d\n%s\n", ref, who, who, len(c.Message), c.Message)
	if !c.Orphan {
		parent, err := runGit(nil, "--git-dir="+bare, "rev-parse", "--verify", "--quiet", ref)
		if err != nil {
			return nil, fmt.Errorf("commit to %s: it has no branch %s", bare, c.Branch)
		}
		fmt.Fprintf(&b, "from %s\n", strings.TrimSpace(string(parent)))
	}
	for _, path := range c.Remove {
		if path == "" {
			b.WriteString("deleteall\n")
			continue
		}
		fmt.Fprintf(&b, "D %s\n", quoteImport(path))
	}
	if c.Files != nil {
		if err := importFiles(&b, c.Files); err != nil {
			return nil, err
		}
	}
	for path, commit := range c.Submodules {
		fmt.Fprintf(&b, "M 160000 %s %s\n", commit, quoteImport(path))
	}
	if c.Tag != "" {
		fmt.Fprintf(&b, "reset refs/tags/%s\nfrom :1\n\n", c.Tag)
	}
	if c.Annotated != "" {
		fmt.Fprintf(&b, "tag %s\nfrom :1\ntagger %s\ndata %d\n%s\n", c.Annotated, who, len(c.Annotated), c.Annotated)
	}
	return &b, nil
}

func importFiles(b *bytes.Buffer, files fs.FS) error {
	return fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode, data := "100644", []byte(nil)
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := fs.ReadLink(files, path)
			if err != nil {
				return err
			}
			mode, data = "120000", []byte(target)
		case info.Mode().IsRegular():
			if info.Mode()&0o111 != 0 {
				mode = "100755"
			}
			if data, err = fs.ReadFile(files, path); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%s is neither file nor symlink", path)
		}
		fmt.Fprintf(b, "M %s inline %s\ndata %d\n", mode, quoteImport(path), len(data))
		b.Write(data)
		b.WriteByte('\n')
		return nil
	})
}

// quoteImport quotes a path as C does, which fast-import wants for paths with quotes or line breaks.
func quoteImport(path string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(path) + `"`
}

func runGit(stdin *bytes.Buffer, args ...string) ([]byte, error) {
	cmd := exec.Command("git", args...)
	cmd.Env = gitEnvironment()
	if stdin != nil {
		cmd.Stdin = stdin
	}
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil, fmt.Errorf("git %s: %w: %s", args[0], err, bytes.TrimSpace(exit.Stderr))
	}
	if err != nil {
		return nil, fmt.Errorf("git %s: %w (Debian has it in the package git)", args[0], err)
	}
	return out, nil
}
