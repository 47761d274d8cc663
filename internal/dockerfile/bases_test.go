package dockerfile_test

import (
	"strings"
	"testing"

	"github.com/containerd/platforms"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/dockerfile"
	"imagebuilder/internal/fault"
)

// query is a build for a platform on linux/amd64.
func query(platform string) dockerfile.Query {
	return dockerfile.Query{Platform: platforms.MustParse(platform), BuildPlatform: platforms.MustParse("linux/amd64")}
}

const threeUses = `# syntax=docker/dockerfile:1
ARG GO=1.22
FROM --platform=$BUILDPLATFORM golang:${GO} AS build
RUN go build
FROM scratch AS nothing
FROM localhost:5000/run
RUN --mount=from=tools:2,target=/t \
    true
COPY --from=build /a /a
COPY --from=golang:1.22 /b /b
COPY --from=docker.io/library/golang:1.22 /c /c
`

func TestBases(t *testing.T) {
	t.Parallel()
	bases, err := parse(t, []byte(threeUses)).Bases(query("linux/arm/v7"))
	require.NoError(t, err)
	amd64, arm := platforms.MustParse("linux/amd64"), platforms.MustParse("linux/arm/v7")
	require.Equal(t, []dockerfile.Base{
		{From: "golang:1.22", Ref: "docker.io/library/golang:1.22", Key: "golang:1.22", Platform: amd64, Named: true, Lines: []int{3}, Stages: []string{"build"}, Use: dockerfile.UseFrom},
		{From: "localhost:5000/run", Ref: "localhost:5000/run:latest", Key: "localhost:5000/run", Platform: arm, Named: true, Lines: []int{6}, Stages: []string{"stage-2"}, Use: dockerfile.UseFrom, Under: true},
		{From: "tools:2", Ref: "docker.io/library/tools:2", Key: "tools:2", Platform: arm, Named: true, Lines: []int{7}, Stages: []string{"stage-2"}, Use: dockerfile.UseMount},
		{From: "golang:1.22", Ref: "docker.io/library/golang:1.22", Key: "golang:1.22", Platform: arm, Named: true, Lines: []int{10, 11}, Stages: []string{"stage-2", "stage-2"}, Use: dockerfile.UseCopy},
	}, bases)
}

func parse(t *testing.T, data []byte) *dockerfile.File {
	t.Helper()
	f, err := dockerfile.Parse("Dockerfile", data)
	require.NoError(t, err)
	return f
}

// On the build platform the builder and COPY --from are one image for one platform.
func TestBasesOfOnePlatformAreMerged(t *testing.T) {
	t.Parallel()
	bases, err := parse(t, []byte(threeUses)).Bases(query("linux/amd64"))
	require.NoError(t, err)
	require.Len(t, bases, 3)
	require.Equal(t, []int{3, 10, 11}, bases[0].Lines)
	require.Equal(t, dockerfile.UseFrom, bases[0].Use)
	require.False(t, bases[0].Under)
}

func TestStagesAndSyntax(t *testing.T) {
	t.Parallel()
	f := parse(t, []byte(threeUses))
	require.Equal(t, []string{"build", "nothing", "stage-2"}, f.Stages())
	require.Equal(t, "docker/dockerfile:1", f.Syntax())
	require.Empty(t, parse(t, []byte("FROM alpine\n")).Syntax())
}

func TestBasesNeedAPlatform(t *testing.T) {
	t.Parallel()
	_, err := parse(t, []byte("FROM alpine\n")).Bases(dockerfile.Query{})
	require.Equal(t, fault.Internal, fault.KindOf(err))
	_, err = parse(t, []byte("FROM alpine\n")).Overrides(nil, "other", nil)
	require.Equal(t, fault.Internal, fault.KindOf(err))
}

func TestForeignRuns(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text, platform string
		want           []dockerfile.ForeignRun
	}{
		"native":          {"FROM alpine\nRUN true\n", "linux/amd64", nil},
		"foreign":         {"FROM alpine\nCOPY . /\nRUN true\nRUN true\n", "linux/arm64", runs("stage-0", 3, "linux/arm64")},
		"cross-compiled":  {"FROM --platform=$BUILDPLATFORM golang AS b\nRUN true\nFROM alpine\nCOPY --from=b /a /a\n", "linux/arm64", nil},
		"fixed":           {"FROM --platform=linux/s390x golang AS b\nRUN true\nFROM alpine\nCOPY --from=b /a /a\n", "linux/amd64", runs("b", 2, "linux/s390x")},
		"not needed":      {"FROM --platform=linux/s390x golang AS b\nRUN true\nFROM alpine\n", "linux/amd64", nil},
		"continued":       {"FROM --platform=linux/s390x golang AS b\nFROM --platform=linux/amd64 b\nRUN true\n", "linux/amd64", runs("stage-1", 3, "linux/s390x")},
		"through onbuild": {"FROM alpine AS a\nONBUILD RUN true\nFROM a AS b\n", "linux/arm/v7", runs("b", 2, "linux/arm/v7")},
		"scratch":         {"FROM --platform=linux/s390x scratch\nRUN [\"/a\"]\n", "linux/amd64", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := parse(t, []byte(c.text)).ForeignRuns(query(c.platform))
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
}

func runs(stage string, line int, platform string) []dockerfile.ForeignRun {
	return []dockerfile.ForeignRun{{Stage: stage, Line: line, Platform: platforms.MustParse(platform)}}
}

// Where the parser would end the process, or fill the memory, there is an error.
func TestParseIsSafe(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, want string }{
		"empty":           {"", "Dockerfile: it is empty"},
		"only comments":   {"# a\n# b\n", "Dockerfile:2: file with no instructions"},
		"only arguments":  {"ARG A=b\n", "Dockerfile: no FROM: there is no stage to build"},
		"open heredoc":    {"FROM a\nRUN <<EOF\nfoo\n", "Dockerfile:2: unterminated heredoc"},
		"too many words":  {"FROM a b\n", "Dockerfile:1: FROM requires either one or three arguments"},
		"long line":       {"FROM a\nRUN " + strings.Repeat("x", 1<<17), "Dockerfile:2: dockerfile line greater than max allowed size of 65535"},
		"binary":          {"\x7fELF\x00\x01", "Dockerfile:1: unknown instruction: \x7fELF\x00\x01"},
		"doubling":        {strings.Repeat("ARG A=${A:-xx}$A$A\n", 64) + "FROM $A", "Dockerfile:13: ARG A: its value is longer than 1048576 bytes"},
		"asked for":       {"ARG A\nFROM ${A:?missing}\n", "Dockerfile:2: FROM ${A:?missing}: A: missing"},
		"bad platform":    {"FROM --platform=$NO/arm64 alpine\n", `Dockerfile:1: --platform=$NO/arm64: "/arm64" is no platform such as linux/arm64`},
		"bad stage name":  {"FROM alpine AS a--.b\n", "Dockerfile:1: AS a--.b: BuildKit takes no stage of that name: invalid reference format"},
		"quoted nothing":  {"FROM \"\"\n", `Dockerfile:1: FROM "": nothing is left of it`},
		"second syntax":   {"# syntax=a\n# syntax=b\nFROM c\n", "Dockerfile:2: only one syntax parser directive can be used"},
		"misspelled flag": {"FROM alpine\nCOPY --form=a /b /c\n", "Dockerfile:2: unknown flag: --form (did you mean from?)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, err := dockerfile.Parse("Dockerfile", []byte(c.text))
			if err == nil {
				_, err = f.Bases(query("linux/amd64"))
			}
			require.EqualError(t, err, c.want)
			require.Equal(t, fault.Invalid, fault.KindOf(err))
		})
	}
}

// A named context takes a base's place only where no stage has the same name, and not where only an ONBUILD needs the base.
func TestNamedBases(t *testing.T) {
	t.Parallel()
	const text = "FROM alpine AS alpine\nFROM golang:1.22 AS golang\nONBUILD COPY --from=b /b /b\nFROM scratch AS b\nCOPY --from=tools /t /b\n" +
		"FROM golang\nCOPY --from=alpine / /a/\n"
	bases, err := parse(t, []byte(text)).Bases(query("linux/amd64"))
	require.NoError(t, err)
	named := map[string]bool{}
	for _, b := range bases {
		named[b.From] = b.Named
	}
	require.Equal(t, map[string]bool{"alpine": false, "golang:1.22": true, "tools": false}, named)
}
