package awkward_test

import (
	"maps"
	"testing"

	"github.com/containerd/platforms"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/dockerfile"
	"imagebuilder/internal/dockerfile/awkward"
)

const registry = "localhost:5000" // never asked: the frontend's daemon is this test

// query is a build for a platform on linux/amd64.
func query(platform string) dockerfile.Query {
	return dockerfile.Query{Platform: platforms.MustParse(platform), BuildPlatform: platforms.MustParse("linux/amd64")}
}

func queries(c awkward.Case) []dockerfile.Query {
	var qs []dockerfile.Query
	for _, p := range c.Platforms {
		q := query(p)
		q.Args, q.Stage = c.BuildArgs, c.Stage
		qs = append(qs, q)
	}
	return qs
}

func parse(t *testing.T, data []byte) *dockerfile.File {
	t.Helper()
	f, err := dockerfile.Parse("Dockerfile", data)
	require.NoError(t, err)
	return f
}

// Without overrides the frontend asks for exactly the images that Bases lists.
func TestAwkwardBasesAreWhatTheFrontendAsksFor(t *testing.T) {
	t.Parallel()
	for _, c := range awkward.Cases() {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			c := c.At(registry)
			f := parse(t, c.Dockerfile)
			for _, q := range queries(c) {
				bases, err := f.Bases(q)
				require.NoError(t, err)
				asked, err := solve(c.Dockerfile, q, nil)
				require.NoError(t, err)
				require.Equal(t, sorted(asked.resolved), images(bases))
				require.Equal(t, sorted(asked.pulled), images(bases))
			}
		})
	}
}

// With them it asks for the new images in their places, by the keys that Override gives, and for
// nothing else that it did not ask for before.
func TestAwkwardOverridesTakeEffect(t *testing.T) {
	t.Parallel()
	for _, c := range awkward.Cases() {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			c := c.At(registry)
			f := parse(t, c.Dockerfile)
			overrides, err := f.Overrides(queries(c), c.Base, c.Bases)
			require.NoError(t, err)
			keys, contexts := map[string]bool{}, map[string]string{}
			for _, o := range overrides {
				keys[o.Base.Key], contexts[o.Base.Key] = true, o.With
			}
			seen := map[string]bool{}
			for _, q := range queries(c) {
				bases, err := f.Bases(q)
				require.NoError(t, err)
				want := map[string]bool{}
				for _, b := range bases {
					ref := b.Ref
					if with, ok := contexts[b.Key]; ok {
						ref = with
					}
					want[ref+" "+platforms.FormatAll(b.Platform)] = true
				}
				asked, err := solve(c.Dockerfile, q, contexts)
				require.NoError(t, err)
				require.Equal(t, sorted(want), sorted(asked.resolved))
				require.Equal(t, sorted(want), sorted(asked.pulled))
				maps.Copy(seen, asked.named)
			}
			require.Equal(t, sorted(keys), sorted(seen))
		})
	}
}

// This is why an image with the name of a stage is refused: BuildKit drops the stage's instructions.
func TestTheFrontendReplacesAStageOfThatName(t *testing.T) {
	t.Parallel()
	text := []byte("FROM alpine AS alpine\nRUN important\nFROM alpine\nRUN more\n")
	q := query("linux/amd64")
	before, err := solve(text, q, nil)
	require.NoError(t, err)
	after, err := solve(text, q, map[string]string{"alpine": "my/alpine"})
	require.NoError(t, err)
	require.Equal(t, 2, before.runs)
	require.Equal(t, 1, after.runs)
	_, err = parse(t, text).Override(q, "my/alpine", nil)
	require.ErrorContains(t, err, "BuildKit would replace the whole stage")
}

// And this is why an image that only an ONBUILD needs is: BuildKit leaves it what it is.
func TestTheFrontendForgetsWhatOnbuildNeeds(t *testing.T) {
	t.Parallel()
	text := []byte("FROM alpine AS a\nONBUILD COPY --from=b /b /b\nFROM alpine AS b\nCOPY --from=tools:1 /t /b\nFROM a\n")
	q := query("linux/amd64")
	asked, err := solve(text, q, map[string]string{"tools:1": "my/tools"})
	require.NoError(t, err)
	require.Contains(t, sorted(asked.pulled), "docker.io/library/tools:1 linux/amd64")
	_, err = parse(t, text).Override(q, "", map[string]string{"tools:1": "my/tools"})
	require.ErrorContains(t, err, "tools:1 (line 4) is needed only through an ONBUILD")
}

// What ForeignRuns lists is what the LLB would run on another platform than the builder's.
func TestForeignRunsAreWhatTheFrontendRuns(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"FROM alpine\nRUN true\n",
		"FROM --platform=$BUILDPLATFORM golang AS b\nRUN true\nFROM alpine\nCOPY --from=b /a /a\n",
		"FROM --platform=linux/s390x golang AS b\nRUN true\nFROM alpine\nCOPY --from=b /a /a\n",
		"FROM --platform=linux/s390x golang AS b\nRUN true\nFROM alpine\n",
		"FROM --platform=linux/s390x golang AS b\nFROM --platform=linux/amd64 b\nRUN true\n",
		"FROM alpine AS a\nONBUILD RUN true\nFROM a AS b\n",
		"FROM --platform=linux/s390x scratch\nRUN [\"/a\"]\n",
	} {
		for _, platform := range []string{"linux/amd64", "linux/arm64", "linux/arm/v7"} {
			runs, err := parse(t, []byte(text)).ForeignRuns(query(platform))
			require.NoError(t, err, text)
			foreign := map[string]bool{}
			for _, r := range runs {
				foreign[platforms.FormatAll(r.Platform)] = true
			}
			asked, err := solve([]byte(text), query(platform), nil)
			require.NoError(t, err, text)
			delete(asked.run, "linux/amd64")
			require.Equal(t, sorted(asked.run), sorted(foreign), "%s for %s", text, platform)
		}
	}
}
