package plugin

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"imagebuilder/internal/fault"
)

// MainName is the name of image-builder's own plugin. Others are named like it, with "-" and more.
const MainName = "image-builder-plugin"

// describeTime is the most that a plugin may take to describe itself: it has nothing to do for it.
const describeTime = 10 * time.Second

// Find gives the paths of the plugins there are, the best first.
//
// If explicit is not empty, it is the path of the only one. Otherwise executables are looked for
// in executableDir, where the host's own lies, and then in the folders of pathList, written as in PATH;
// of those with the same name the first counts. image-builder's own plugin comes before others.
// Relative folders of pathList are passed over, as a plugin must not depend on where one stands.
//
// No plugin is an error of kind NotFound that says where was looked.
func Find(executableDir, pathList, explicit string) ([]string, error) {
	if explicit != "" {
		if !executable(explicit) {
			return nil, fault.New(NotFound, "plugin %s: no such executable", explicit)
		}
		path, err := filepath.Abs(explicit)
		if err != nil {
			return nil, fault.New(NotFound, "plugin %s: %w", explicit, err)
		}
		return []string{path}, nil
	}
	var looked, found []string
	for _, dir := range append([]string{executableDir}, filepath.SplitList(pathList)...) {
		if filepath.IsAbs(dir) && !slices.Contains(looked, filepath.Clean(dir)) {
			looked = append(looked, filepath.Clean(dir))
			found = append(found, pluginsIn(dir)...)
		}
	}
	if len(found) == 0 {
		return nil, fault.New(NotFound, "no plugin %s in %s", MainName, strings.Join(looked, ", ")).
			WithHint("install %s beside image-builder, or name one with --plugin", MainName)
	}
	return ranked(found), nil
}

// pluginsIn lists the plugins in a folder, by name.
func pluginsIn(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var found []string
	for _, e := range entries {
		name := bareName(e.Name())
		path := filepath.Join(dir, e.Name())
		if (name == MainName || strings.HasPrefix(name, MainName+"-")) && executable(path) {
			found = append(found, path)
		}
	}
	return found
}

// ranked drops later ones of the same name and puts the main plugin first.
func ranked(paths []string) []string {
	var mains, others []string
	seen := map[string]bool{}
	for _, p := range paths {
		name := bareName(filepath.Base(p))
		switch {
		case seen[name]:
		case name == MainName:
			mains = append(mains, p)
		default:
			others = append(others, p)
		}
		seen[name] = true
	}
	return append(mains, others...)
}

func bareName(file string) string {
	if runtime.GOOS == "windows" {
		return strings.TrimSuffix(strings.ToLower(file), ".exe")
	}
	return file
}

func executable(path string) bool {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	if runtime.GOOS == "windows" {
		return strings.EqualFold(filepath.Ext(path), ".exe")
	}
	return info.Mode().Perm()&0o111 != 0
}

// FindFor starts the plugins at paths one after the other and gives the first that performs operation
// on nodeType. The others are closed again; with the usual plugin first, only one is ever started.
//
// The error is of kind Invalid when no plugin claims the operation. A plugin that does not start or does
// not describe itself is passed over, and reported only if no other claims the operation.
func FindFor(ctx context.Context, paths []string, nodeType, operation string, opts Options) (*Client, error) {
	var offers []string
	var broken error
	for _, path := range paths {
		c, err := Start(ctx, path, opts)
		if err == nil {
			var d Description
			if d, err = describe(ctx, c); err == nil && d.performs(nodeType, operation) {
				return c, nil
			}
			offers = append(offers, d.offers()...)
			_ = c.Close()
		}
		if ctx.Err() != nil {
			return nil, cancelled(ctx, fmt.Sprintf("search for a plugin for %s", nodeType))
		}
		if err != nil && broken == nil {
			broken = err
		}
	}
	if broken != nil {
		return nil, broken
	}
	f := fault.New(Invalid, "no plugin performs %q on nodes of type %q", operation, nodeType)
	if len(offers) > 0 {
		f = f.WithHint("there is: %s", strings.Join(offers, "; "))
	}
	return nil, f
}

func describe(ctx context.Context, c *Client) (Description, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, describeTime,
		fmt.Errorf("plugin %s did not describe itself within %v: %w", c.name, describeTime, context.DeadlineExceeded))
	defer cancel()
	return c.Describe(ctx)
}

// performs tells whether the operation of the node type is in the description.
func (d Description) performs(nodeType, operation string) bool {
	for _, n := range d.Nodes {
		for _, o := range n.Operations {
			if n.Name == nodeType && o.Name == operation {
				return true
			}
		}
	}
	return false
}

// offers lists node types with their operations, for people.
func (d Description) offers() []string {
	var out []string
	for _, n := range d.Nodes {
		var names []string
		for _, o := range n.Operations {
			names = append(names, o.Name)
		}
		out = append(out, n.Name+" ("+strings.Join(names, ", ")+")")
	}
	return out
}
