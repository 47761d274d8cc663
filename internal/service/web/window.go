package web

import (
	"bytes"
	"context"
	"html/template"

	"imagebuilder/internal/service/store"
)

const (
	// windowBytes is how much output a page begins with and "earlier" adds: 2,000 lines or so, which a phone shows at once.
	windowBytes = 192 << 10
	// windowRead bounds what is read for that: entries are up to 64 KiB, and with a step chosen most are not wanted.
	windowRead = 4 << 20
	// before is how many entries before a window are read to know what colour it begins with, and lines that began there.
	before = 16
	// readAt is how much is asked of the store at once.
	readAt = 512 << 10
)

// window is a piece of a log as the page shows it.
type window struct {
	First, Last int64 // entries whose lines are in it; First is 0 for a log that has none
	Earlier     bool  // there are entries before First
	Later       bool  // there are entries after Last
	Lines       template.HTML
	Open        template.HTML // lines that have not ended, where Last is the last entry
	Step        string        // the step whose lines are shown; "" are all
	Here        int64         // the entry that was looked for
}

// view reads pieces of one log.
type view struct {
	log   Log
	id    string
	names map[string]string // of steps
	step  string            // the only one that is wanted; "" wants all
	group bool              // steps are named with their image
	query string            // what was searched for; "": nothing
}

// end is the last entry's number. known is an entry that is there, or 0.
func (v view) end(ctx context.Context, known int64) (int64, error) {
	has := func(seq int64) (bool, error) {
		entries, err := v.log.Log(ctx, v.id, seq-1, 1)
		return len(entries) > 0, err
	}
	low, step := known, int64(1)
	for {
		ok, err := has(low + step)
		if err != nil {
			return 0, err
		}
		if !ok {
			break
		}
		low += step
		step *= 2
	}
	for high := low + step; high-low > 1; { // low is there, high is not
		middle := low + (high-low)/2
		ok, err := has(middle)
		if err != nil {
			return 0, err
		}
		if ok {
			low = middle
		} else {
			high = middle
		}
	}
	return low, nil
}

// upTo is the window that ends with an entry.
func (v view) upTo(ctx context.Context, last int64, bytes int) ([]store.LogEntry, error) {
	var entries []store.LogEntry
	wanted, read := 0, 0
	for first, count := last+1, int64(before); first > 1 && wanted < bytes && read < windowRead; count *= 2 {
		next := max(1, first-count)
		got, err := v.between(ctx, next, first-1)
		if err != nil {
			return nil, err
		}
		for _, e := range got {
			read += len(e.Data)
			if e.Kind == store.LogOut && (v.step == "" || v.step == e.Step) {
				wanted += len(e.Data)
			}
		}
		entries, first = append(got, entries...), next
	}
	// The oldest are let go as far as they are too much.
	for len(entries) > 1 && wanted-len(entries[0].Data) >= bytes {
		if e := entries[0]; e.Kind == store.LogOut && (v.step == "" || v.step == e.Step) {
			wanted -= len(e.Data)
		}
		entries = entries[1:]
	}
	return entries, nil
}

// from is the window that begins with an entry.
func (v view) from(ctx context.Context, first int64, bytes int) ([]store.LogEntry, error) {
	var entries []store.LogEntry
	wanted, read := 0, 0
	for at := first - 1; wanted < bytes && read < windowRead; {
		got, err := v.log.Log(ctx, v.id, at, bytes)
		if err != nil || len(got) == 0 {
			return entries, err
		}
		for _, e := range got {
			read += len(e.Data)
			if e.Kind == store.LogOut && (v.step == "" || v.step == e.Step) {
				wanted += len(e.Data)
			}
		}
		entries, at = append(entries, got...), got[len(got)-1].Seq
	}
	return entries, nil
}

// between is the entries from first to last.
func (v view) between(ctx context.Context, first, last int64) ([]store.LogEntry, error) {
	var entries []store.LogEntry
	for at := first - 1; at < last; {
		got, err := v.log.Log(ctx, v.id, at, readAt)
		if err != nil || len(got) == 0 {
			return entries, err
		}
		for _, e := range got {
			if e.Seq > last {
				return entries, nil
			}
			entries = append(entries, e)
			at = e.Seq
		}
	}
	return entries, nil
}

// reader is a reader that knows what stands before an entry.
func (v view) reader(ctx context.Context, first int64) (*reader, error) {
	r := newReader(v.names)
	r.only, r.grouped = v.step, v.group
	if first <= 1 {
		return r, nil
	}
	entries, err := v.between(ctx, max(1, first-before), first-1)
	for _, e := range entries {
		for _, l := range r.read(e) {
			r.heading = l.step
		}
	}
	return r, err
}

// window makes lines of entries.
func (v view) window(ctx context.Context, entries []store.LogEntry, end, here int64) (window, error) {
	if len(entries) == 0 {
		return window{Step: v.step}, nil
	}
	out := window{First: entries[0].Seq, Last: entries[len(entries)-1].Seq, Step: v.step, Here: here}
	out.Earlier, out.Later = out.First > 1, out.Last < end
	r, err := v.reader(ctx, out.First)
	if err != nil {
		return window{}, err
	}
	r.heading = "" // a window says whose lines it begins with
	var b bytes.Buffer
	marked := false
	for _, e := range entries {
		lines := r.read(e)
		for i := range lines {
			lines[i].here = here != 0 && e.Seq == here && v.found(lines[i])
			lines[i].first = lines[i].here && !marked
			marked = marked || lines[i].here
		}
		r.html(&b, lines)
	}
	out.Lines = template.HTML(b.String()) //nolint:gosec // line.html escapes all that came from elsewhere
	if !out.Later {
		out.Open = r.open()
	}
	return out, nil
}

// found tells whether a line has what was searched for.
func (v view) found(l line) bool {
	return bytes.Contains(bytes.ToLower(l.plain()), bytes.ToLower([]byte(v.query)))
}

// open is the HTML of lines that have not ended.
func (r *reader) open() template.HTML {
	var b bytes.Buffer
	for _, l := range r.unfinished() {
		l.html(&b)
	}
	return template.HTML(b.String()) //nolint:gosec // line.html escapes all that came from elsewhere
}
