//go:build unix

package plugin_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/plugin"
)

func TestFind(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for path, mode := range map[string]os.FileMode{
		"beside/image-builder-plugin":        0o755,
		"beside/image-builder-plugin-aa":     0o755,
		"beside/image-builder-pluginx":       0o755,
		"beside/image-builder":               0o755,
		"path1/image-builder-plugin":         0o755,
		"path1/image-builder-plugin-aa":      0o755,
		"path1/image-builder-plugin-zz":      0o755,
		"path1/image-builder-plugin-notes":   0o644,
		"path1/image-builder-plugin-d/file":  0o755,
		"path2/image-builder-plugin-only":    0o755,
		"empty/something":                    0o755,
		"elsewhere/whatever you like to use": 0o755,
	} {
		path = filepath.Join(root, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, nil, mode))
	}
	at := func(dirs ...string) string {
		for i, d := range dirs {
			if d != "" && d != "." {
				dirs[i] = filepath.Join(root, d)
			}
		}
		return strings.Join(dirs, string(filepath.ListSeparator))
	}
	tests := map[string]struct {
		dir, path, explicit string
		want                []string
		err                 string
	}{
		"explicit wins": {
			dir: at("beside"), path: at("path1"), explicit: at("elsewhere/whatever you like to use"),
			want: []string{"elsewhere/whatever you like to use"},
		},
		"explicit is not there": {
			dir: at("beside"), explicit: at("elsewhere/nothing"),
			err: "plugin " + at("elsewhere/nothing") + ": no such executable",
		},
		"explicit is a folder": {
			explicit: at("beside"), err: "plugin " + at("beside") + ": no such executable",
		},
		"beside comes before PATH": {
			dir: at("beside"), path: at("path1", "path2"),
			want: []string{
				"beside/image-builder-plugin", "beside/image-builder-plugin-aa",
				"path1/image-builder-plugin-zz", "path2/image-builder-plugin-only",
			},
		},
		"the main plugin comes first": {
			dir: at("path2"), path: at("path1", "", "."),
			want: []string{
				"path1/image-builder-plugin", "path2/image-builder-plugin-only",
				"path1/image-builder-plugin-aa", "path1/image-builder-plugin-zz",
			},
		},
		"none": {
			dir: at("empty"), path: at("nowhere", "empty"),
			err: "no plugin image-builder-plugin in " + at("empty") + ", " + at("nowhere"),
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found, err := plugin.Find(test.dir, test.path, test.explicit)
			if test.err != "" {
				require.EqualError(t, err, test.err)
				require.Equal(t, plugin.NotFound, fault.KindOf(err))
				return
			}
			require.NoError(t, err)
			for i := range found {
				found[i], err = filepath.Rel(root, found[i])
				require.NoError(t, err)
			}
			require.Equal(t, test.want, found)
		})
	}
}

func TestFindFor(t *testing.T) {
	t.Parallel()
	broken := filepath.Join(t.TempDir(), "image-builder-plugin-broken")
	require.NoError(t, os.WriteFile(broken, []byte("#!/bin/sh\nexit 1\n"), 0o700))

	t.Run("passes over what does not start", func(t *testing.T) {
		t.Parallel()
		temp := shortTemp(t)
		c, err := plugin.FindFor(t.Context(), []string{broken, example, "/never/tried"}, nodeType, "echo", plugin.Options{TempDir: temp})
		require.NoError(t, err)
		_, err = c.Execute(t.Context(), request(t, "echo", values{}), func(plugin.Event) {})
		require.NoError(t, err)
		require.NoError(t, c.Close())
		require.True(t, isEmpty(t, temp))
	})
	t.Run("nobody does it", func(t *testing.T) {
		t.Parallel()
		temp := shortTemp(t)
		_, err := plugin.FindFor(t.Context(), []string{example}, nodeType, "explode", plugin.Options{TempDir: temp})
		require.EqualError(t, err, `no plugin performs "explode" on nodes of type "example.nodes.Echo"`)
		f := fault.As(err)
		require.Equal(t, plugin.Invalid, f.Kind)
		require.Equal(t, "there is: example.nodes.Echo (echo, slow, fail, panic, die, flood)", f.Hint)
		require.True(t, isEmpty(t, temp))
	})
	t.Run("nobody does it but one is broken", func(t *testing.T) {
		t.Parallel()
		_, err := plugin.FindFor(t.Context(), []string{broken, example}, "other", "echo", plugin.Options{})
		require.ErrorContains(t, err, "image-builder-plugin-broken ended unexpectedly (exit status 1)")
	})
}
