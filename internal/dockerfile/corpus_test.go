package dockerfile_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/dockerfile"
	"imagebuilder/internal/dockerfile/awkward"
	"imagebuilder/internal/fault"
)

const (
	minBuilt = 28 // what was promised; a pattern that embeds nothing shows here
	minBad   = 8
)

func queries(c awkward.Case) []dockerfile.Query {
	var qs []dockerfile.Query
	for _, p := range c.Platforms {
		q := query(p)
		q.Args, q.Stage = c.BuildArgs, c.Stage
		qs = append(qs, q)
	}
	return qs
}

// That they take effect is for the tests beside the corpus, and for those of the engine, to show.
func TestAwkward(t *testing.T) {
	t.Parallel()
	require.GreaterOrEqual(t, len(awkward.Cases()), minBuilt)
	for _, c := range awkward.Cases() {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			overrides, err := parse(t, c.Dockerfile).Overrides(queries(c), c.Base, c.Bases)
			require.NoError(t, err)
			var replaced []string
			under := false
			for _, o := range overrides {
				if !slices.Contains(replaced, o.Base.From) {
					replaced = append(replaced, o.Base.From)
				}
				under = under || o.Base.Under
			}
			require.Equal(t, c.Replaced, replaced)
			require.Equal(t, c.Under, under)
		})
	}
}

// refusal is the error of a case as its case.yaml has it: the hint stands on a line of its own.
func refusal(err error) string {
	f := fault.As(err)
	text := f.Error()
	if f.Hint != "" {
		text += "\n(" + f.Hint + ")"
	}
	return text
}

func TestRefused(t *testing.T) {
	t.Parallel()
	require.GreaterOrEqual(t, len(awkward.Refused()), minBad)
	for _, c := range awkward.Refused() {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			f, err := dockerfile.Parse("Dockerfile", c.Dockerfile)
			if err == nil {
				_, err = f.Overrides(queries(c), c.Base, c.Bases)
			}
			require.Error(t, err)
			require.Equal(t, fault.Invalid, fault.KindOf(err))
			require.Equal(t, strings.TrimSpace(c.Error), refusal(err))
		})
	}
}
