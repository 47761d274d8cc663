package main

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
)

// contender is one program at one work. run measures its phases once, in the unit of their measures; see measure.add
// for the names.
type contender struct {
	name string
	run  func(ctx context.Context, round int) (map[string]float64, error)
}

// series is what was measured of one contender in one phase.
type series struct {
	name     string
	values   []float64
	failures int
	goal     float64 // at most; 0 is none
	absolute bool    // the goal is in the measure's unit, and not a ratio to the best peer
	peer     bool    // others are compared with the best of these
}

// measure is one part of the table: contenders side by side.
type measure struct {
	item   string
	what   string
	unit   string
	series []series
}

// alternate has contenders take turns. The order moves on by one each round, so that none always runs after the same
// neighbour. A contender that fails loses that round only.
func alternate(ctx context.Context, l *lab, rounds int, contenders []contender, measures map[string]*measure) error {
	for round := range rounds {
		for i := range contenders {
			c := contenders[(round+i)%len(contenders)]
			if err := ctx.Err(); err != nil {
				return err
			}
			got, err := c.run(ctx, round)
			if err != nil && ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				l.say("  %s, round %d: %s", c.name, round+1, err)
			}
			for phase, m := range measures {
				m.add(phase, c.name, got, err)
			}
			l.say("  %-32s round %d/%d %v", c.name, round+1, rounds, compact(got))
		}
	}
	return nil
}

func compact(got map[string]float64) string {
	text := ""
	for _, phase := range slices.Sorted(maps.Keys(got)) {
		text += fmt.Sprintf(" %s %.4g", phase, got[phase])
	}
	return text
}

// add adds what a contender got in a phase: under "phase" its own value, under "phase/name" that of another series,
// which it measured on its way.
func (m *measure) add(phase, contender string, got map[string]float64, err error) {
	for i := range m.series {
		s := &m.series[i]
		value, ok := got[phase+"/"+s.name]
		if !ok && s.name == contender {
			value, ok = got[phase]
		}
		switch {
		case ok:
			s.values = append(s.values, value)
		case err != nil && s.name == contender:
			s.failures++
		}
	}
}

func (s series) median() float64 {
	if len(s.values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(s.values))
	mid := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[mid]
	}
	return (sorted[mid-1] + sorted[mid]) / 2
}

func (s series) least() float64 {
	if len(s.values) == 0 {
		return math.NaN()
	}
	return slices.Min(s.values)
}

// best is the peer that the others are compared with: that of the least median.
func (m measure) best() *series {
	var best *series
	for i := range m.series {
		s := &m.series[i]
		if s.peer && len(s.values) > 0 && (best == nil || s.median() < best.median()) {
			best = s
		}
	}
	return best
}
