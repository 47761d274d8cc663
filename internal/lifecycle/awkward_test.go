package lifecycle_test

import (
	"encoding/json"
	"maps"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/platforms"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/dockerfile/awkward"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/testbed"
)

// TestAwkwardDockerfiles builds the whole corpus for real. The program checks each override itself;
// this looks once more, by another way: the layers' digests in the registry.
func TestAwkwardDockerfiles(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	b.pushBases(t)
	cases := awkward.Cases()
	require.GreaterOrEqual(t, len(cases), 25)
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			c := c.At(b.registry.Host)
			out, _, err := b.create(t, t.Context(), b.awkwardDocument(t, c))
			require.NoError(t, err)
			var replaced []string
			for _, base := range out.Images[0].Bases {
				if base.Ref == c.Base || slices.Contains(slices.Collect(maps.Values(c.Bases)), base.Ref) {
					replaced = append(replaced, base.From)
					require.NotEmpty(t, base.Digest)
				}
			}
			for _, from := range c.Replaced {
				require.Contains(t, replaced, from)
			}
			if c.Under {
				for _, name := range c.Platforms {
					b.requireUnder(t, c, name)
				}
			}
		})
	}
}

// TestRefusedDockerfiles asks for what cannot be done: nothing is built, and the error says why.
func TestRefusedDockerfiles(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	b.pushBases(t)
	for _, c := range awkward.Refused() {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			c := c.At(b.registry.Host)
			_, _, err := b.create(t, t.Context(), b.awkwardDocument(t, c))
			require.Equal(t, fault.Invalid, fault.KindOf(err), "%v", err)
			require.Empty(t, b.tags(t, "awkward/"+c.Name))
		})
	}
}

func (b *bed) awkwardDocument(t *testing.T, c awkward.Case) string {
	t.Helper()
	_, err := testbed.InitRepo(c.Context, filepath.Join(b.gitRoot, c.Name+".git"), testbed.RepoOptions{})
	require.NoError(t, err)
	doc := buildparams.Document{
		Source: buildparams.Source{GitRepo: &buildparams.GitRepo{URL: b.git.URL + "/" + c.Name + ".git"}},
		Target: buildparams.Target{
			Registry: buildparams.Registry{URL: b.registry.Host},
			Images: []buildparams.Image{{
				Image: "awkward/" + c.Name, Tag: "1", Base: c.Base, Bases: c.Bases,
				BuildArgs: c.BuildArgs, Stage: c.Stage, Platforms: c.Platforms,
			}},
		},
	}
	data, err := json.Marshal(doc)
	require.NoError(t, err)
	return string(data)
}

// requireUnder requires that the image's first layers are those of one of the bases that were given.
func (b *bed) requireUnder(t *testing.T, c awkward.Case, platform string) {
	t.Helper()
	p := platforms.MustParse(platform)
	layers := layerDigests(t, b.pull(t, "@REG/awkward/"+c.Name+":1", p.OS, p.Architecture))
	bases := []string{c.Base}
	for _, with := range c.Bases {
		bases = append(bases, with)
	}
	for _, base := range bases {
		if base == "" {
			continue
		}
		under := layerDigests(t, b.pull(t, base, p.OS, p.Architecture))
		if len(layers) >= len(under) && slices.Equal(layers[:len(under)], under) {
			return
		}
	}
	t.Errorf("%s: no base is under the image", platform)
}

func layerDigests(t *testing.T, image v1.Image) []v1.Hash {
	t.Helper()
	config, err := image.ConfigFile()
	require.NoError(t, err)
	return config.RootFS.DiffIDs
}
