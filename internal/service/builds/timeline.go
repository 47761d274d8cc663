package builds

import (
	"context"
	"time"

	"imagebuilder/internal/result"
	"imagebuilder/internal/service/store"
)

// Timeline is what a build has done so far, in its newest attempt.
type Timeline struct {
	Phases   []Phase
	Variants []Variant // in the order of the document
	Steps    []Step    // that belong to no variant, as the fetch of the source
	Notes    []Note
	Attempts []Attempt // the earlier ones; none as a rule
	// Cut tells that there is more than is listed: steps beyond maxSteps, or notes beyond maxNotes.
	Cut bool
}

// Phase is a stretch of a build. Phases overlap where variants are built side by side.
type Phase struct {
	Name    PhaseName
	Started time.Time
	Ended   time.Time // zero while it goes on
	Seconds float64   // of work, as the result has it where there is one; of waiting for queued
	Steps   int
	Cached  int // of Steps
	Failed  bool
}

// PhaseName is which phase it is.
type PhaseName string

// The phases, in their usual order.
const (
	PhaseQueued PhaseName = "queued" // waiting for a worker
	PhaseFetch  PhaseName = "fetch"  // of the source
	PhaseEngine PhaseName = "engine" // starting one
	PhaseBuild  PhaseName = "build"
	PhasePush   PhaseName = "push"   // exporting, pushing, and what the registry has to say
	PhaseVerify PhaseName = "verify" // looking at what the registry serves
)

// Variant is one image of the document.
type Variant struct {
	Ref       string // registry/repository:tag
	Digest    string
	PinnedRef string
	Unchanged bool // nothing was built: the tag names an image of the same inputs
	Bases     []result.BaseResult
	Times     result.Times
	Error     *result.ErrorResult
	Platforms []Platform
	Steps     []Step // of no platform of its own
}

// Platform is one platform of a variant.
type Platform struct {
	Name   string  // linux/arm/v7
	Digest string  // of the manifest
	Size   int64   // bytes in the registry
	Layers []Layer // from the lowest up
	Steps  []Step
	Cached int // of Steps
}

// Layer is one layer of an image.
type Layer = result.Layer

// Step is one thing that was done.
type Step struct {
	ID      string // of the log's entries
	Name    string // as BuildKit has it, "[build 2/5] RUN make"
	Started time.Time
	Ended   time.Time // zero while it goes on
	Cached  bool      // it did not have to be done
	Error   string
	Phase   PhaseName
}

// Note is a sentence of the build for people.
type Note struct {
	At    time.Time
	Level string // info or warning
	Text  string
}

// Attempt is one that came to no end.
type Attempt struct {
	Number int
	Reason string // why another followed
	Ended  time.Time
}

// timeline is put together from the log and, when there is one, the result.
func (s *Service) timeline(ctx context.Context, inv store.Invocation) (Timeline, error) {
	entries, err := s.config.Store.LogKindEntries(ctx, inv.ID, store.LogStep, store.LogNote, store.LogAttempt)
	if err != nil {
		return Timeline{}, err
	}
	return Fold(inv, entries), nil
}
