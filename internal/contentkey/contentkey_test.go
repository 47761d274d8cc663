package contentkey_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tonistiigi/fsutil"

	"imagebuilder/internal/contentkey"
)

func inputs() contentkey.Inputs {
	return contentkey.Inputs{
		Context: "abc", Dockerfile: []byte("FROM a\n"), Bases: map[string]string{"a": "sha256:1", "b": "sha256:2"},
		BuildArgs: map[string]string{"A": "1", "B": "2"}, Labels: map[string]string{"l": "1", "m": "2"},
		Platforms: []string{"linux/amd64", "linux/arm64"}, Stage: "s", Options: map[string]string{"compression": "gzip", "level": "1"},
		Secrets: map[string][]byte{"token": []byte("x"), "other": []byte("y")},
	}
}

func key(t *testing.T, in contentkey.Inputs) string {
	t.Helper()
	k, err := contentkey.Key(in)
	require.NoError(t, err)
	return k
}

// TestEverySingleChangeCounts changes each field of the inputs in each way that its type has, found by reflection, so
// that a field added later is not forgotten.
func TestEverySingleChangeCounts(t *testing.T) {
	t.Parallel()
	seen := map[string]string{key(t, inputs()): "unchanged"}
	fields := reflect.TypeFor[contentkey.Inputs]()
	for i := range fields.NumField() {
		for what, change := range changes(fields.Field(i).Type) {
			in := inputs()
			change(reflect.ValueOf(&in).Elem().Field(i))
			name := fields.Field(i).Name + ": " + what
			k := key(t, in)
			require.Empty(t, seen[k], "%s has the key of %s", name, seen[k])
			seen[k] = name
		}
	}
	require.Greater(t, len(seen), 20)
}

// changes are the ways to change a value of a type by a little.
func changes(typ reflect.Type) map[string]func(reflect.Value) {
	switch typ {
	case reflect.TypeFor[string]():
		return map[string]func(reflect.Value){
			"longer": func(v reflect.Value) { v.SetString(v.String() + "x") },
			"empty":  func(v reflect.Value) { v.SetString("") },
		}
	case reflect.TypeFor[[]byte]():
		return map[string]func(reflect.Value){
			"longer": func(v reflect.Value) { v.SetBytes(append(v.Bytes(), ' ')) },
			"empty":  func(v reflect.Value) { v.SetBytes(nil) },
		}
	case reflect.TypeFor[[]string]():
		return map[string]func(reflect.Value){
			"one more": func(v reflect.Value) { v.Set(reflect.Append(v, reflect.ValueOf("linux/386"))) },
			"one less": func(v reflect.Value) { v.Set(v.Slice(0, v.Len()-1)) },
			"another":  func(v reflect.Value) { v.Index(0).SetString("linux/s390x") },
		}
	}
	zero := func(v reflect.Value) reflect.Value { return v.MapKeys()[0] }
	other := reflect.ValueOf("other")
	if typ.Elem() == reflect.TypeFor[[]byte]() {
		other = reflect.ValueOf([]byte("other"))
	}
	return map[string]func(reflect.Value){
		"one more":      func(v reflect.Value) { v.SetMapIndex(reflect.ValueOf("more"), other) },
		"one less":      func(v reflect.Value) { v.SetMapIndex(zero(v), reflect.Value{}) },
		"another value": func(v reflect.Value) { v.SetMapIndex(zero(v), other) },
		"another name": func(v reflect.Value) {
			k := zero(v)
			x := v.MapIndex(k)
			v.SetMapIndex(k, reflect.Value{})
			v.SetMapIndex(reflect.ValueOf(k.String()+"x"), x)
		},
		"none there are": func(v reflect.Value) { v.SetZero() },
	}
}

func TestKeyHasNoOrder(t *testing.T) {
	t.Parallel()
	in := inputs()
	in.Platforms = []string{"linux/arm64", "linux/amd64"}
	require.Equal(t, key(t, inputs()), key(t, in))
	require.True(t, strings.HasPrefix(key(t, in), fmt.Sprintf("%d:", contentkey.Version)))

	none, empty := inputs(), inputs()
	none.Labels, empty.Labels = nil, map[string]string{}
	require.Equal(t, key(t, none), key(t, empty))
}

// TestContext makes random trees and changes one thing: the hash changes if and only if the build could see it.
func TestContext(t *testing.T) {
	t.Parallel()
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 1))
			dir := t.TempDir()
			write := func(name, text string) {
				require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
				require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
			}
			write(".dockerignore", "ignored\n**/*.log\n")
			var names []string
			for i := range 1 + r.IntN(12) {
				name := strings.Repeat("d/", r.IntN(3)) + fmt.Sprint("f", i)
				write(name, fmt.Sprint(r.IntN(1000)))
				names = append(names, name)
			}
			write("ignored/a", "1")
			write("d/x.log", "1")
			require.NoError(t, os.Symlink("f0", filepath.Join(dir, "link")))
			before := hash(t, dir, nil)
			require.Equal(t, before, hash(t, dir, nil))

			write("ignored/a", "2")
			write("d/x.log", "2")
			write("d/y.log", "2")
			require.Equal(t, before, hash(t, dir, nil), "what is ignored does not count")
			require.NotEqual(t, before, hash(t, dir, []byte("nothing")), "the Dockerfile's own ignore file goes before")

			victim := names[r.IntN(len(names))]
			path := filepath.Join(dir, victim)
			old, err := os.ReadFile(path)
			require.NoError(t, err)
			for what, change := range map[string]func(){
				"content": func() { write(victim, string(old)+"x") },
				"mode":    func() { require.NoError(t, os.Chmod(path, 0o755)) },
				"removed": func() { require.NoError(t, os.Remove(path)) },
				"a link":  func() { require.NoError(t, os.Remove(path)); require.NoError(t, os.Symlink("elsewhere", path)) },
				"renamed": func() { require.NoError(t, os.Rename(path, path+"-new")) },
			} {
				change()
				require.NotEqual(t, before, hash(t, dir, nil), what)
				require.NoError(t, os.RemoveAll(path))
				require.NoError(t, os.RemoveAll(path+"-new"))
				write(victim, string(old))
				require.Equal(t, before, hash(t, dir, nil), "and back, at another time")
			}
		})
	}
}

func hash(t *testing.T, dir string, own []byte) string {
	t.Helper()
	tree, err := fsutil.NewFS(dir)
	require.NoError(t, err)
	h, err := contentkey.Context(t.Context(), tree, own)
	require.NoError(t, err)
	return h
}
