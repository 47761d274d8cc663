package awkward_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/containerd/platforms"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/dockerfile"
)

// randomFiles is how many Dockerfiles are made up: some seconds of them.
const randomFiles = 2000

// author makes up Dockerfiles in which names collide as often as they can.
type author struct {
	*rand.Rand
	stages int // of the Dockerfile at hand
}

func (a author) one(of ...string) string { return of[a.IntN(len(of))] }

func (a author) often(n int) bool { return a.IntN(n) != 0 }

func (a author) image() string {
	return a.one("alpine", "alpine:latest", "docker.io/library/alpine", "alpine:3.19", "golang", "golang:1.22", "build", "run",
		"localhost:5000/golang", "registry.example.com:5000/alpine:1", "context", "scratch", "scratch", "scratch:latest",
		"alpine@sha256:"+strings.Repeat("ab", 32), "alpine:latest@sha256:"+strings.Repeat("cd", 32))
}

func (a author) alias() string {
	return a.one("alpine", "golang", "build", "Build", "run", "context", "scratch", "final", "a.b", "a--b")
}

func (a author) from() string {
	if a.often(4) {
		return a.one(a.image(), a.image(), strings.ToLower(a.alias()))
	}
	return a.one("${BASE}", "$BASE", "${BASE:-alpine}", "golang:${TAG}", "golang:${TAG:-1.22}", "base-$TARGETARCH", "${OTHER}", "\"alpine\"", "Build", "x:$TARGETSTAGE")
}

func (a author) source() string {
	return a.one(a.alias(), a.alias(), a.image(), fmt.Sprint(a.IntN(a.stages)), "99")
}

func (a author) command() string {
	switch a.IntN(9) {
	case 0, 1:
		return "COPY --from=" + a.source() + " /a /b\n"
	case 2:
		return "RUN --mount=type=bind,target=/m,from=" + a.source() + " true\n"
	case 3:
		return a.one("RUN --mount=type=cache,target=/c true\n", "RUN --mount=type=tmpfs,target=/t true\n", "COPY . /src\n", "WORKDIR /w\n")
	case 4:
		return a.one("ONBUILD COPY --from="+a.source()+" /a /b\n", "ONBUILD RUN true\n", "ARG BASE=inner\n", "ENV A=b\n")
	case 5:
		return "COPY <<EOF /f\nFROM nowhere\nEOF\n"
	default:
		return "RUN true\n"
	}
}

func (a author) dockerfile() string {
	var b strings.Builder
	for range a.IntN(4) {
		b.WriteString(a.one("ARG BASE=alpine\n", "ARG BASE\n", "ARG TAG=3\n", "ARG BASE=golang:${TAG}\n", "ARG OTHER=$BUILDPLATFORM\n", "ARG TARGETARCH=x\n"))
	}
	a.stages = 1 + a.IntN(5)
	for range a.stages {
		b.WriteString(a.one("FROM ", "from "))
		if !a.often(3) {
			b.WriteString("--platform=" + a.one("$BUILDPLATFORM", "$TARGETPLATFORM", "linux/arm64", "linux/$TARGETARCH", "${OTHER}", "linux/arm/v7") + " ")
		}
		b.WriteString(a.from())
		if a.often(3) {
			b.WriteString(" AS " + a.alias())
		}
		b.WriteString("\n")
		for range a.IntN(4) {
			b.WriteString(a.command())
		}
	}
	return b.String()
}

func (a author) query() dockerfile.Query {
	q := query(a.one("linux/amd64", "linux/386", "linux/arm/v7", "linux/arm64"))
	q.Args = map[string]string{}
	for k, v := range map[string]string{"BASE": "golang:1.22", "TAG": "9", "OTHER": "linux/s390x", "TARGETARCH": "given"} {
		if !a.often(5) {
			q.Args[k] = v
		}
	}
	if !a.often(3) {
		q.Stage = a.alias()
	}
	return q
}

// For made-up Dockerfiles, BuildKit's frontend refuses what Bases refuses, and asks for the images that
// Bases lists; with overrides it asks for the new ones in their places and leaves out no instruction.
func TestRandomDockerfilesAgreeWithTheFrontend(t *testing.T) {
	t.Parallel()
	var good, replaced int
	for seed := range uint64(randomFiles) {
		a := author{Rand: rand.New(rand.NewPCG(seed, 1))}
		text, q := a.dockerfile(), a.query()
		about := fmt.Sprintf("seed %d, %+v\n%s", seed, q, text)
		f, err := dockerfile.Parse("Dockerfile", []byte(text))
		require.NoError(t, err, about)
		bases, err := f.Bases(q)
		asked, refusal := solve([]byte(text), q, nil)
		if err != nil {
			require.Error(t, refusal, "refused only here: %v\n%s", err, about)
			continue
		}
		if refusal != nil && strings.Contains(refusal.Error(), `cannot mount from stage "scratch"`) {
			continue // a cache mount and, below it, a stage called scratch: the mount's type is not known here
		}
		require.NoError(t, refusal, about)
		require.Equal(t, sorted(asked.images()), images(bases), about)
		good++

		base, named := "", map[string]string{}
		if a.often(3) {
			base = "new.example.com/base:1"
		}
		for range a.IntN(3) {
			name := a.image()
			if len(bases) > 0 && a.often(4) {
				b := bases[a.IntN(len(bases))]
				name = a.one(b.From, b.Ref, b.Key)
			}
			named[name] = fmt.Sprintf("new.example.com/named:%d", a.IntN(2))
		}
		overrides, err := f.Override(q, base, named)
		if err != nil || len(overrides) == 0 {
			continue
		}
		replaced++
		contexts, want := map[string]string{}, map[string]bool{}
		for _, o := range overrides {
			contexts[o.Base.Key] = o.With
		}
		for _, b := range bases {
			ref := b.Ref
			if with, ok := contexts[b.Key]; ok {
				ref = with
			}
			want[ref+" "+platforms.FormatAll(b.Platform)] = true
		}
		again, err := solve([]byte(text), q, contexts)
		require.NoError(t, err, about)
		require.Equal(t, sorted(want), sorted(again.images()), "%v\n%s", contexts, about)
		require.Equal(t, asked.runs, again.runs, "%v\n%s", contexts, about)
	}
	// Otherwise the author writes nothing but nonsense, and the test says nothing.
	require.Greater(t, good, randomFiles/10)
	require.Greater(t, replaced, randomFiles/50)
	t.Logf("%d of %d Dockerfiles build, %d with overrides", good, randomFiles, replaced)
}
