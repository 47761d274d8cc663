package dockerfile_test

import (
	"testing"

	"github.com/containerd/platforms"

	"imagebuilder/internal/dockerfile"
	"imagebuilder/internal/dockerfile/awkward"
	"imagebuilder/internal/fault"
)

// Nothing that calls itself a Dockerfile ends the process, and every error is the Dockerfile's fault.
func FuzzParse(f *testing.F) {
	for _, c := range append(awkward.Cases(), awkward.Refused()...) {
		f.Add(c.Dockerfile, "alpine:3.18", c.Stage)
	}
	f.Fuzz(func(t *testing.T, data []byte, base, stage string) {
		file, err := dockerfile.Parse("Dockerfile", data)
		if err != nil {
			requireInvalid(t, err)
			return
		}
		q := dockerfile.Query{
			Platform: platforms.MustParse("linux/386"), BuildPlatform: platforms.MustParse("linux/amd64"),
			Args: map[string]string{"BASE": base, "SOURCE_DATE_EPOCH": "0"}, Stage: stage,
		}
		if _, err := file.Bases(q); err != nil {
			requireInvalid(t, err)
			return
		}
		if _, err := file.ForeignRuns(q); err != nil {
			t.Fatal(err)
		}
		if _, err := file.Override(q, base, map[string]string{base: "other"}); err != nil {
			requireInvalid(t, err)
		}
	})
}

func requireInvalid(t *testing.T, err error) {
	t.Helper()
	if fault.KindOf(err) != fault.Invalid {
		t.Fatalf("%v is %s", err, fault.KindOf(err))
	}
}
