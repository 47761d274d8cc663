package lifecycle

import (
	"strconv"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/fault"
)

// setEpoch finds the time that options.source_date_epoch stands for.
func (j *job) setEpoch() error {
	switch epoch := j.doc.Options.SourceDateEpoch; epoch {
	case "":
	case buildparams.EpochCommit:
		if j.tree.CommitTime.IsZero() {
			return fault.InvalidInput("check build_params", []fault.Problem{{
				Pointer: "/options/source_date_epoch", Message: "the source has no commit", Hint: "give a time",
			}})
		}
		t := j.tree.CommitTime.UTC()
		j.epoch = &t
	default:
		t, err := epoch.Time()
		if err != nil {
			return fault.New(fault.Internal, "options.source_date_epoch passed validation: %w", err)
		}
		j.epoch = &t
	}
	return nil
}

// epochText is the epoch as it counts for an image's key.
func (j *job) epochText() string {
	if j.epoch == nil {
		return ""
	}
	return strconv.FormatInt(j.epoch.Unix(), 10)
}
