package lifecycle

import (
	"testing"

	"github.com/containerd/platforms"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/dockerfile"
	"imagebuilder/internal/engine"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/registry"
)

// TestVerifyBases is for what must never happen with the real engine: an override without effect.
func TestVerifyBases(t *testing.T) {
	t.Parallel()
	amd64 := platforms.MustParse("linux/amd64")
	image := func(layers ...string) *registry.Image {
		return &registry.Image{Digest: "sha256:i", Platforms: []registry.PlatformImage{{Platform: amd64, DiffIDs: layers}}}
	}
	const digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	variant := func(under bool) *variant {
		return &variant{ref: "r/a:1", uses: []use{{
			target: amd64, base: dockerfile.Base{From: "alpine", Platform: amd64, Under: under},
			with: &replacement{ref: "r/base:1", at: "r.io/base:1@" + digest, image: image("a", "b")},
		}}}
	}
	tests := []struct {
		name    string
		under   bool
		pushed  *registry.Image
		sources []string
		fails   string
	}{
		{name: "stands on it", under: true, pushed: image("a", "b", "c")},
		{name: "is the base itself", under: true, pushed: image("a", "b")},
		{name: "stands on something else", under: true, pushed: image("x", "b", "c"), fails: "first layers are not the base's"},
		{name: "has fewer layers", under: true, pushed: image("a"), fails: "first layers are not the base's"},
		{name: "another platform", under: true, pushed: &registry.Image{}, fails: "no image for the platform"},
		{name: "builder was pulled", pushed: image("z"), sources: []string{"r.io/base:1@" + digest}},
		{name: "builder was pulled without its tag", pushed: image("z"), sources: []string{"r.io/base@" + digest}},
		{name: "builder was not pulled", pushed: image("a", "b"), sources: []string{"docker.io/library/alpine:latest@" + digest}, fails: "the engine did not use r.io/base:1"},
		{name: "nothing was pulled", pushed: image("a", "b"), fails: "it used no image"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := variant(tt.under).verifyBases(&engine.Image{Sources: tt.sources}, tt.pushed)
			if tt.fails == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, tt.fails)
			require.ErrorContains(t, err, "no tag was moved")
			require.Equal(t, fault.Internal, fault.KindOf(err))
		})
	}
}

func TestDigestOf(t *testing.T) {
	t.Parallel()
	sources := []string{"docker.io/library/alpine:3.19@sha256:aa", "docker.io/library/golang:1.22@sha256:bb"}
	require.Equal(t, "sha256:bb", digestOf("docker.io/library/golang:1.22", sources))
	require.Empty(t, digestOf("docker.io/library/golang:1.23", sources))
}
