package dockerfile_test

import (
	"testing"

	"github.com/containerd/platforms"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/dockerfile"
	"imagebuilder/internal/fault"
)

func TestOverrideWithoutWishes(t *testing.T) {
	t.Parallel()
	f := parse(t, []byte("FROM scratch\nCOPY a /\n"))
	overrides, err := f.Override(query("linux/amd64"), "", nil)
	require.NoError(t, err)
	require.Empty(t, overrides)
}

// A variant's platforms may differ in what they use: what one of them uses is used.
func TestOverridesOfSeveralPlatforms(t *testing.T) {
	t.Parallel()
	f := parse(t, []byte("FROM --platform=$BUILDPLATFORM golang AS b\nFROM run-$TARGETARCH:1\nCOPY --from=b /a /a\n"))
	amd64, arm64 := query("linux/amd64"), query("linux/arm64")
	overrides, err := f.Overrides([]dockerfile.Query{amd64, arm64}, "my/golang", map[string]string{"run-arm64:1": "my/run"})
	require.NoError(t, err)
	type got struct {
		key, with, platform, target string
		under                       bool
	}
	var all []got
	for _, o := range overrides {
		all = append(all, got{o.Base.Key, o.With, platforms.Format(o.Base.Platform), platforms.Format(o.Target), o.Base.Under})
	}
	require.Equal(t, []got{
		{"golang", "my/golang", "linux/amd64", "linux/amd64", false},
		{"golang", "my/golang", "linux/amd64", "linux/arm64", false},
		{"run-arm64:1", "my/run", "linux/arm64", "linux/arm64", true},
	}, all)

	_, err = f.Override(amd64, "", map[string]string{"run-arm64:1": "my/run"})
	require.ErrorContains(t, err, "does not use the image run-arm64:1")
}

// Everything that is wrong is said at once, with pointers relative to the image of the document.
func TestOverrideReportsEverything(t *testing.T) {
	t.Parallel()
	f := parse(t, []byte("FROM golang:1 AS build\nFROM alpine\n"))
	_, err := f.Override(query("linux/amd64"), "a b", map[string]string{"a/b~c": "x", "build": "x", "scratch": "x", "golang:1": "x"})
	var pointers []string
	for _, p := range fault.As(err).Problems {
		pointers = append(pointers, p.Pointer)
	}
	require.Equal(t, []string{"/bases/a~1b~0c", "/bases/build", "/bases/golang:1", "/bases/scratch", "/base"}, pointers)
}

// The same image by both, in two spellings, is no contradiction.
func TestOverrideTwiceTheSame(t *testing.T) {
	t.Parallel()
	f := parse(t, []byte("FROM alpine\n"))
	overrides, err := f.Override(query("linux/amd64"), "my/alpine", map[string]string{"alpine": "docker.io/my/alpine:latest"})
	require.NoError(t, err)
	require.Len(t, overrides, 1)
}
