// Package contentkey names the inputs of an image: two builds with the same key would give the same image,
// as far as its inputs decide. The key is a label of the image, so that the next build can tell that
// there is nothing to do.
//
// It reads a context and hashes; it neither fetches nor compares.
package contentkey

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"slices"

	"github.com/moby/patternmatcher/ignorefile"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
	"golang.org/x/crypto/scrypt"
	"golang.org/x/sync/errgroup"
)

// Version is part of every key. It changes when the same inputs would make another image: a new Dockerfile
// frontend, another media type, another label of ours.
const Version = 2

// Labels of an image that carry what the next build wants to know.
const (
	KeyLabel   = "io.image-builder.key"
	BasesLabel = "io.image-builder.bases" // JSON object: base as the Dockerfile names it → digest
	// OwnerLabel says whose image it is, for who may remove its tag. It is no input. Images that are built on this one
	// inherit the label, so it stands among the manifest's annotations too, which nobody inherits.
	OwnerLabel = "io.image-builder.owner"
)

// Inputs are everything that an image is made of. Maps and lists count by content, platforms in any order.
type Inputs struct {
	Context    string            `json:"context"` // from Context
	Dockerfile []byte            `json:"dockerfile"`
	Bases      map[string]string `json:"bases,omitempty"` // pinned, by what the Dockerfile calls them
	BuildArgs  map[string]string `json:"build_args,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"` // as asked for; not those that tell where the source is from
	Platforms  []string          `json:"platforms"`
	Stage      string            `json:"stage"`
	Options    map[string]string `json:"options,omitempty"` // what else changes the bytes, as compression
	Secrets    map[string][]byte `json:"-"`
}

// Key is the inputs' key: "1:" and 64 hexadecimal digits.
//
// Secrets count too, but a label is read by everyone who may pull. They go in through scrypt, salted with all other
// inputs, so that guessing a weak one from the key takes as long as it does from a well-kept password file.
func Key(in Inputs) (string, error) {
	in.Platforms = slices.Sorted(slices.Values(in.Platforms))
	data, err := json.Marshal(struct {
		Version int
		Inputs  Inputs
	}{Version, in})
	if err != nil {
		return "", fmt.Errorf("hash the inputs of an image: %w", err)
	}
	sum := sha256.Sum256(data)
	if len(in.Secrets) > 0 {
		secrets, err := json.Marshal(in.Secrets)
		if err != nil {
			return "", fmt.Errorf("hash the inputs of an image: %w", err)
		}
		const n, r, p = 1 << 15, 8, 1 // the cost that the scrypt package recommends for interactive logins, about 0.1 s
		key, err := scrypt.Key(secrets, sum[:], n, r, p, len(sum))
		if err != nil {
			return "", fmt.Errorf("hash the inputs of an image: %w", err)
		}
		copy(sum[:], key)
	}
	return fmt.Sprintf("%d:%s", Version, hex.EncodeToString(sum[:])), nil
}

// Context hashes what a build can see of a context: every path, mode, link and content that the ignore file leaves, which is
// ownIgnore, or the context's .dockerignore when that is nil. Times and owners do not count: an image that
// differs in nothing else is not worth a build.
func Context(ctx context.Context, tree fsutil.FS, ownIgnore []byte) (string, error) {
	patterns, err := ignored(tree, ownIgnore)
	if err != nil {
		return "", err
	}
	visible, err := fsutil.NewFilterFS(tree, &fsutil.FilterOpt{ExcludePatterns: patterns})
	if err != nil {
		return "", fmt.Errorf("read .dockerignore: %w", err)
	}
	// Files are read side by side, and take their places in the order of the walk.
	var records []*record
	reading, ctx := errgroup.WithContext(ctx)
	reading.SetLimit(runtime.GOMAXPROCS(0))
	err = visible.Walk(ctx, "/", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		r := &record{Path: name, Mode: info.Mode()}
		records = append(records, r)
		if stat, ok := info.Sys().(*types.Stat); ok {
			r.Link = stat.Linkname
		}
		if info.Mode().IsRegular() {
			reading.Go(func() (err error) {
				r.Content, err = contentOf(visible, name)
				return err
			})
		}
		return ctx.Err()
	})
	if failed := reading.Wait(); failed != nil { // what the walk met is that it was called off
		err = failed
	}
	if err != nil {
		return "", fmt.Errorf("read the build context: %w", err)
	}
	sum := sha256.New()
	encode := json.NewEncoder(sum)
	for _, r := range records {
		if err := encode.Encode(r); err != nil {
			return "", fmt.Errorf("read the build context: %w", err)
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// record is what counts of one thing in a context.
type record struct {
	Path, Link string
	Mode       fs.FileMode
	Content    string
}

func contentOf(fsys fsutil.FS, name string) (string, error) {
	file, err := fsys.Open(name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// ignored are the patterns of the ignore file that BuildKit's frontend takes.
func ignored(tree fsutil.FS, own []byte) ([]string, error) {
	if own != nil {
		return ignorefile.ReadAll(bytes.NewReader(own))
	}
	const name = ".dockerignore"
	file, err := tree.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	defer file.Close()
	patterns, err := ignorefile.ReadAll(file)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return patterns, nil
}
