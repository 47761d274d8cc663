package web

import (
	"bytes"
	"context"
	"strings"
	"time"
	"unicode/utf8"

	"imagebuilder/internal/service/builds"
)

const (
	maxHits    = 200              // as many as somebody looks through
	maxQuery   = 200              // bytes of what is searched for
	hitContext = 80               // bytes of the line that are shown on either side
	searchTime = 20 * time.Second // the longest log takes about a second
)

// hit is a line of a log that holds what was searched for.
type hit struct {
	Seq                 int64
	Before, Text, After string
}

// search looks through the whole log, whatever part of it the page shows.
func (s *server) search(ctx context.Context, v view, panel *logPanel) error {
	select {
	case s.searches <- struct{}{}:
		defer func() { <-s.searches }()
	case <-time.After(searchTime):
		return &builds.LimitError{What: "search the log: too many logs are being searched", RetryAfter: searchTime}
	case <-ctx.Done():
		return ctx.Err()
	}
	if len(panel.Query) > maxQuery {
		panel.Query = strings.ToValidUTF8(panel.Query[:maxQuery], "")
	}
	wanted := bytes.ToLower([]byte(panel.Query))
	deadline := time.Now().Add(searchTime)
	r := newReader(v.names)
	r.only = v.step
	for after := int64(0); ; {
		entries, err := v.log.Log(ctx, v.id, after, readAt)
		if err != nil || len(entries) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			panel.Partly = true
			return nil
		}
		for _, e := range entries {
			for _, l := range r.read(e) {
				text := l.plain()
				at := bytes.Index(bytes.ToLower(text), wanted)
				if at < 0 {
					continue
				}
				if panel.Count++; len(panel.Hits) < maxHits {
					panel.Hits = append(panel.Hits, excerpt(l.seq, text, at, len(wanted)))
				}
			}
			after = e.Seq
		}
	}
}

// excerpt is a part of a line around what was found. Lower case may be longer or shorter than the text itself, so at may be a little off:
// it is kept to the text, and to whole runes.
func excerpt(seq int64, text []byte, at, length int) hit {
	whole := func(i int) int {
		i = max(0, min(i, len(text)))
		for i > 0 && i < len(text) && !utf8.RuneStart(text[i]) {
			i--
		}
		return i
	}
	from, to := whole(at), whole(at+length)
	h := hit{Seq: seq, Before: string(text[whole(from-hitContext):from]), Text: string(text[from:to]), After: string(text[to:whole(to+hitContext)])}
	if from > hitContext {
		h.Before = "…" + h.Before
	}
	if to+hitContext < len(text) {
		h.After += "…"
	}
	return h
}
