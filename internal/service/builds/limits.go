package builds

import (
	"cmp"
	"time"
)

// Limits bound what one request, one document and one caller may take. Zero values are the defaults.
type Limits struct {
	// DocumentBytes is the largest document. Default and most 1 MiB, which is what internal/buildparams reads.
	DocumentBytes int
	// Images is the most that images × platforms of one document may come to, for each is a build of its own. Default 64.
	Images int
	// Timeout is the longest that a build may run, and what it may where nobody says anything. Default 6 h; less than 0: no limit.
	Timeout time.Duration
	// QueueTTL is the longest that a build may wait, and what it may where nobody says anything. Default 24 h; less than 0: no limit.
	QueueTTL time.Duration
	// Queued is how many builds of one subject may wait. Default 100; less than 0: no limit.
	Queued int
	// QueuedRetry is what a caller whose queue is full is told to wait. Default 15 s: about what a short build takes.
	QueuedRetry time.Duration
	// Plans is how many plans are made at once by this process; each is a process of its own that fetches the source. Default 2.
	Plans int
	// PlanTime is the longest that a plan may take. Default 2 min, as long as the fetch of a large repository.
	PlanTime time.Duration
	// PageSize is the most that a list answers at once. Default 100.
	PageSize int
}

const (
	defaultPageSize = 20 // of a list whose request does not say; as much as fits a screen

	// Labels are for finding builds again, not for keeping data in.
	maxLabels     = 32
	maxLabelKey   = 63 // as Kubernetes has it for the name of a label
	maxLabelValue = 256

	maxIdempotencyKey = 255 // as other APIs have it

	defaultPriority = 2 // of 1 to 4: the higher goes first
	mostPriority    = 4
)

func (l Limits) withDefaults() Limits {
	const maxDocument = 1 << 20
	if l.DocumentBytes <= 0 || l.DocumentBytes > maxDocument {
		l.DocumentBytes = maxDocument
	}
	l.Images = cmp.Or(l.Images, 64)
	l.Timeout = cmp.Or(l.Timeout, 6*time.Hour)
	l.QueueTTL = cmp.Or(l.QueueTTL, 24*time.Hour)
	l.Queued = cmp.Or(l.Queued, 100)
	l.QueuedRetry = cmp.Or(l.QueuedRetry, 15*time.Second)
	l.Plans = cmp.Or(l.Plans, 2)
	l.PlanTime = cmp.Or(l.PlanTime, 2*time.Minute)
	l.PageSize = cmp.Or(l.PageSize, 100)
	return l
}

// least is the shortest of lengths of time of which 0 or less means none; 0 when all are none.
func least(all ...time.Duration) time.Duration {
	var out time.Duration
	for _, d := range all {
		if d > 0 && (out == 0 || d < out) {
			out = d
		}
	}
	return out
}
