package awkward_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/dockerfile"
	"imagebuilder/internal/dockerfile/awkward"
)

// Where BuildKit's frontend builds, Bases lists what it asks for.
func FuzzAgreement(f *testing.F) {
	for _, c := range append(awkward.Cases(), awkward.Refused()...) {
		f.Add(c.Dockerfile, "alpine:3.18", c.Stage)
	}
	f.Fuzz(func(t *testing.T, data []byte, base, stage string) {
		file, err := dockerfile.Parse("Dockerfile", data)
		if err != nil {
			return
		}
		q := query("linux/386")
		q.Args, q.Stage = map[string]string{"BASE": base, "SOURCE_DATE_EPOCH": "0"}, stage
		bases, err := file.Bases(q)
		asked, refusal := solve(data, q, nil)
		if refusal != nil {
			return
		}
		require.NoError(t, err, "refused only here")
		require.Equal(t, sorted(asked.images()), images(bases))
	})
}
