package awkward_test

import (
	"io/fs"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/dockerfile/awkward"
)

func TestCases(t *testing.T) {
	t.Parallel()
	for _, c := range awkward.Cases() {
		require.NotEmpty(t, c.About, c.Name)
		require.NotEmpty(t, c.Replaced, c.Name)
		require.Empty(t, c.Error, c.Name)
		require.True(t, c.Base != "" || len(c.Bases) > 0, c.Name)
		data, err := fs.ReadFile(c.Context, "Dockerfile")
		require.NoError(t, err, c.Name)
		require.Equal(t, c.Dockerfile, data, c.Name)
	}
	for _, c := range awkward.Refused() {
		require.NotEmpty(t, c.Error, c.Name)
	}
}

func TestAt(t *testing.T) {
	t.Parallel()
	c := awkward.Case{Base: "REGISTRY/a", Bases: map[string]string{"b": "REGISTRY/b"}, BuildArgs: map[string]string{"C": "REGISTRY"}}
	at := c.At("localhost:1")
	require.Equal(t, "localhost:1/a", at.Base)
	require.Equal(t, map[string]string{"b": "localhost:1/b"}, at.Bases)
	require.Equal(t, map[string]string{"C": "localhost:1"}, at.BuildArgs)
	require.Equal(t, "REGISTRY/b", c.Bases["b"])
}

func TestLoadCasesRefusesABrokenCase(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		files fstest.MapFS
		want  string
	}{
		"no folder":     {fstest.MapFS{}, "file does not exist"},
		"no Dockerfile": {fstest.MapFS{"c/1/case.yaml": {Data: []byte("base: a\n")}}, "1: open c/1/Dockerfile"},
		"unknown field": {fstest.MapFS{"c/1/Dockerfile": {}, "c/1/case.yaml": {Data: []byte("bsae: a\n")}}, "unknown field"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := awkward.LoadCases(c.files, "c")
			require.ErrorContains(t, err, c.want)
		})
	}
}
