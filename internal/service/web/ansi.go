package web

import (
	"unicode/utf8"
)

const (
	// maxLine is where a line that does not end is broken: no terminal shows more, and browsers slow down on longer ones.
	maxLine = 8 << 10
	// maxSpans bounds how many changes of style one line shows; what follows is shown in the last of them.
	maxSpans = 512
	// maxSequence is the longest control sequence that is read; programs' own stay below 40 bytes.
	maxSequence = 64
)

// style is how text is to look: what SGR control sequences (ECMA-48, 8.3.117) have set.
type style struct {
	bold, dim, italic, underline, strike, inverse bool
	fg, bg                                        uint8 // 0 is the default, otherwise 1 + one of 16 colours
}

// span is text of one style.
type span struct {
	style style
	text  []byte
}

// screen turns what a program writes to a terminal into lines. It knows colours, carriage returns (which begin the line anew, as
// progress displays do) and tabs; every other control is left out, so that a line is always plain text. What stands at the end of
// one chunk goes on in the next.
type screen struct {
	style   style
	spans   []span
	length  int  // bytes in spans
	restart bool // a carriage return was seen: what comes next replaces the line
	state   state
	params  []byte // of the control sequence being read
	partial []byte // of a rune that is not complete yet
}

// state is where in a control sequence the screen is.
type state uint8

const (
	ground  state = iota
	escaped       // after ESC
	charset       // after ESC and a byte that wants another one
	control       // in CSI … final byte
	text          // in OSC, DCS and the like, up to BEL or ST
	textEnd       // after ESC in one of them
)

// write takes a chunk and calls line with each line that it ends.
func (s *screen) write(chunk []byte, line func([]span)) {
	for _, b := range chunk {
		switch s.state {
		case ground:
			s.plain(b, line)
		case escaped:
			s.escape(b)
		case charset:
			s.state = ground
		case control:
			s.sequence(b)
		case text:
			switch b {
			case 0x07:
				s.state = ground
			case 0x1b:
				s.state = textEnd
			case '\n': // nobody means that: the sequence was cut off
				s.state = ground
				s.plain(b, line)
			}
		case textEnd:
			s.state = ground
		}
	}
}

func (s *screen) plain(b byte, line func([]span)) {
	if b < utf8.RuneSelf && len(s.partial) > 0 {
		s.partial = s.partial[:0]
		s.put(utf8.RuneError, line)
	}
	switch {
	case b == 0x1b:
		s.state = escaped
	case b == '\n':
		line(s.take())
	case b == '\r':
		s.restart = true
	case b == '\t':
		s.put('\t', line)
	case b < 0x20 || b == 0x7f:
	case b < utf8.RuneSelf:
		s.put(rune(b), line)
	default:
		s.partial = append(s.partial, b)
		for len(s.partial) > 0 && (utf8.FullRune(s.partial) || len(s.partial) >= utf8.UTFMax) {
			r, n := utf8.DecodeRune(s.partial)
			s.put(r, line)
			s.partial = append(s.partial[:0], s.partial[n:]...)
		}
	}
}

// put adds a rune to the line.
func (s *screen) put(r rune, line func([]span)) {
	if hidden(r) {
		r = utf8.RuneError
	}
	if s.restart {
		s.spans, s.length, s.restart = nil, 0, false
	}
	if s.length >= maxLine {
		line(s.take())
	}
	if n := len(s.spans); n == 0 || (s.spans[n-1].style != s.style && n < maxSpans) {
		s.spans = append(s.spans, span{style: s.style})
	}
	last := &s.spans[len(s.spans)-1]
	before := len(last.text)
	last.text = utf8.AppendRune(last.text, r)
	s.length += len(last.text) - before
}

// hidden tells of runes that make text look like another: C1 controls and those that change its direction.
func hidden(r rune) bool {
	return (r >= 0x80 && r < 0xa0) || (r >= 0x202a && r <= 0x202e) || (r >= 0x2066 && r <= 0x2069) || r == 0x200e || r == 0x200f
}

// take gives the line away and begins a new one.
func (s *screen) take() []span {
	spans := s.spans
	s.spans, s.length, s.restart = nil, 0, false
	return spans
}

// pending is the line that has not ended; nil when it is empty.
func (s *screen) pending() []span { return s.spans }

func (s *screen) escape(b byte) {
	s.state = ground
	switch b {
	case '[':
		s.state, s.params = control, s.params[:0]
	case ']', 'P', 'X', '^', '_':
		s.state = text
	case '(', ')', '*', '+', '-', '.', '/', '#', '%', ' ':
		s.state = charset
	case 0x1b:
		s.state = escaped
	}
}

func (s *screen) sequence(b byte) {
	switch {
	case b == 0x1b:
		s.state = escaped
	case b >= 0x40 && b <= 0x7e:
		s.state = ground
		if b == 'm' {
			s.style.apply(s.params)
		}
	case b < 0x20 || b > 0x7e || len(s.params) >= maxSequence:
		s.state = ground // no control sequence after all
	default:
		s.params = append(s.params, b)
	}
}

// apply is what one SGR sequence does to the style.
func (s *style) apply(params []byte) {
	codes := numbers(params)
	for i := 0; i < len(codes); i++ {
		switch c := codes[i]; {
		case c == 0:
			*s = style{}
		case c == 1:
			s.bold = true
		case c == 2:
			s.dim = true
		case c == 3:
			s.italic = true
		case c == 4 || c == 21:
			s.underline = true
		case c == 7:
			s.inverse = true
		case c == 9:
			s.strike = true
		case c == 22:
			s.bold, s.dim = false, false
		case c == 23:
			s.italic = false
		case c == 24:
			s.underline = false
		case c == 27:
			s.inverse = false
		case c == 29:
			s.strike = false
		case c >= 30 && c <= 37:
			s.fg = uint8(c-30) + 1
		case c == 39:
			s.fg = 0
		case c >= 40 && c <= 47:
			s.bg = uint8(c-40) + 1
		case c == 49:
			s.bg = 0
		case c >= 90 && c <= 97:
			s.fg = uint8(c-90) + 9
		case c >= 100 && c <= 107:
			s.bg = uint8(c-100) + 9
		case c == 38 || c == 48:
			colour, used := extended(codes[i+1:])
			if i += used; colour == 0 {
				continue
			}
			if c == 38 {
				s.fg = colour
			} else {
				s.bg = colour
			}
		}
	}
}

// numbers reads the parameters of a sequence; what is missing is 0. Both ; and : stand between them.
func numbers(params []byte) []int {
	const most = 9999 // of a number; larger ones mean nothing
	codes := []int{0}
	for _, b := range params {
		switch {
		case b >= '0' && b <= '9':
			last := &codes[len(codes)-1]
			*last = min(*last*10+int(b-'0'), most)
		case b == ';' || b == ':':
			codes = append(codes, 0)
		default:
			return nil // a private sequence
		}
	}
	return codes
}

// extended is the one of our 16 colours that is nearest to that of 38;5;N or 38;2;R;G;B, and how many numbers it took.
func extended(codes []int) (colour uint8, used int) {
	switch {
	case len(codes) >= 2 && codes[0] == 5:
		return palette(codes[1]), 2
	case len(codes) >= 4 && codes[0] == 2:
		return nearest(codes[1], codes[2], codes[3]), 4
	}
	return 0, len(codes)
}

func palette(n int) uint8 {
	const cube, greys, all = 16, 232, 256
	switch {
	case n < cube:
		return uint8(n) + 1
	case n < greys:
		n -= cube
		level := func(v int) int {
			if v == 0 {
				return 0
			}
			return 55 + 40*v // as xterm has its 6×6×6 colours
		}
		return nearest(level(n/36), level(n/6%6), level(n%6))
	case n < all:
		grey := 8 + 10*(n-greys)
		return nearest(grey, grey, grey)
	}
	return 0
}

// nearest picks by hue first: which of the three lights are on, and whether they are bright.
func nearest(r, g, b int) uint8 {
	top, low := max(r, g, b), min(r, g, b)
	const faint, grey = 48, 32
	switch {
	case top < faint:
		return 1 // black
	case top-low < grey && top < 128:
		return 9 // bright black, which is grey
	case top-low < grey && top < 220:
		return 8 // white, which is light grey
	case top-low < grey:
		return 16
	}
	half := (top + low) / 2
	colour := uint8(1)
	for i, v := range []int{r, g, b} {
		if v > half {
			colour += 1 << i
		}
	}
	if top > 200 {
		colour += 8
	}
	return colour
}

// classes are the names in app.css that make the style.
func (s style) classes() string {
	fg, bg := s.fg, s.bg
	if s.inverse {
		fg, bg = bg, fg
	}
	var out []byte
	add := func(name string) {
		if len(out) > 0 {
			out = append(out, ' ')
		}
		out = append(out, name...)
	}
	number := func(prefix byte, n uint8) string { return string([]byte{prefix, "0123456789abcdef"[n-1]}) }
	if s.bold {
		add("sb")
	}
	if s.dim {
		add("sd")
	}
	if s.italic {
		add("si")
	}
	switch {
	case s.underline && s.strike:
		add("su ss")
	case s.underline:
		add("su")
	case s.strike:
		add("ss")
	}
	switch {
	case bg != 0: // its class sets a foreground too, for any other might not be readable on it
		add(number('b', bg))
	case s.inverse:
		add("sv")
	case fg != 0:
		add(number('f', fg))
	}
	return string(out)
}
