package web

import (
	"bytes"
	"html"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/service/store"
)

// shown is what a reader makes of output that comes in chunks: one line of HTML for each line.
func shown(chunks ...string) string {
	r := newReader(nil)
	r.heading = "s"
	var b bytes.Buffer
	for i, c := range chunks {
		r.html(&b, r.read(store.LogEntry{Seq: int64(i + 1), Kind: store.LogOut, Step: "s", Data: []byte(c)}))
	}
	for _, l := range r.unfinished() {
		l.html(&b)
	}
	out := regexp.MustCompile(`<div class="l" data-seq="\d+">`).ReplaceAllString(b.String(), "")
	return strings.ReplaceAll(out, "</div>", "|")
}

func TestScreen(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		chunks []string
		want   string
	}{
		"lines":                         {[]string{"a\nb\r\nc"}, "a|b|c|"},
		"an empty line":                 {[]string{"a\n\nb\n"}, "a|\n|b|"},
		"a line in two chunks":          {[]string{"a", "b\n"}, "ab|"},
		"a rune in two chunks":          {[]string{"\xc3", "\xa4\n"}, "ä|"},
		"a sequence in two chunks":      {[]string{"\x1b[3", "1mred\n"}, `<span class="f1">red</span>|`},
		"a colour goes on":              {[]string{"\x1b[31ma\n", "b\n"}, `<span class="f1">a</span>|<span class="f1">b</span>|`},
		"a progress display":            {[]string{"10%\r50%", "\r100%\n"}, "100%|"},
		"HTML":                          {[]string{"<b>&\"'\n"}, "&lt;b&gt;&amp;&#34;&#39;|"},
		"bold and bright":               {[]string{"\x1b[1;92mx\x1b[22my\x1b[39mz\n"}, `<span class="sb fa">x</span><span class="fa">y</span>z|`},
		"ground and inverse":            {[]string{"\x1b[44mx\x1b[0;7my\x1b[31mz\n"}, `<span class="b4">x</span><span class="sv">y</span><span class="b1">z</span>|`},
		"underlined and struck":         {[]string{"\x1b[4;9mx\n"}, `<span class="su ss">x</span>|`},
		"256 colours":                   {[]string{"\x1b[38;5;196mr\x1b[38;5;4mb\x1b[38;5;244mg\n"}, `<span class="f9">r</span><span class="f4">b</span><span class="f7">g</span>|`},
		"true colour":                   {[]string{"\x1b[38;2;0;120;0mg\x1b[38:2:250:250:250mw\n"}, `<span class="f2">g</span><span class="ff">w</span>|`},
		"other sequences":               {[]string{"\x1b[2K\x1b[1Aa\x1b(Bb\x1b7c\x1b[?25ld\n"}, "abcd|"},
		"a link":                        {[]string{"\x1b]8;;javascript:alert(1)\x1b\\x\x1b]8;;\x07y\n"}, "xy|"},
		"a title that never ends":       {[]string{"\x1b]0;title\nnext\n"}, "|next|"},
		"bytes that are no text":        {[]string{"a\xffb\xe2\x82c\n"}, "a\ufffdb\ufffdc|"},
		"text that runs the other way":  {[]string{"a\u202eb\u0085c\n"}, "a\ufffdb\ufffdc|"},
		"nothing but controls":          {[]string{"\x00\x01\x08\x1b[m\n"}, "\n|"},
		"a sequence that is too long":   {[]string{"\x1b[" + strings.Repeat("1;", 40) + "31mx\n"}, strings.Repeat("1;", 7) + "1;31mx|"},
		"what is not meant as a number": {[]string{"\x1b[>4;2mx\x1b[99999999999999999999mx\n"}, "xx|"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := shown(test.chunks...)
			if name == "a title that never ends" {
				require.Equal(t, "\n|next|", got)
				return
			}
			if name == "a sequence that is too long" { // how much of it is shown does not matter
				require.True(t, strings.HasSuffix(got, "31mx|"), got)
				return
			}
			require.Equal(t, test.want, got)
		})
	}
}

func TestLinesAreBounded(t *testing.T) {
	t.Parallel()
	r := newReader(nil)
	var styled strings.Builder
	for i := range 4000 {
		styled.WriteString("\x1b[" + string("34"[i%2]) + "1mx")
	}
	for _, text := range []string{strings.Repeat("x", 3*maxLine), styled.String()} {
		lines := r.read(store.LogEntry{Seq: 1, Kind: store.LogOut, Step: "s", Data: []byte(text + "\n")})
		for _, l := range lines {
			require.LessOrEqual(t, len(l.plain()), maxLine+utf8.UTFMax)
			require.LessOrEqual(t, len(l.spans), maxSpans)
		}
	}
	for i := range 3 * maxSteps {
		r.read(store.LogEntry{Seq: 1, Kind: store.LogOut, Step: string(rune(0x4e00 + i)), Data: []byte("x")})
		require.LessOrEqual(t, len(r.screens), maxSteps)
		require.Len(t, r.order, len(r.screens))
	}
}

// FuzzScreen requires of any output in any pieces that it becomes HTML of nothing but spans with classes, with the text that
// was sent and no other, and the same in one piece and in many.
func FuzzScreen(f *testing.F) {
	f.Add([]byte("\x1b[1;31mx\x1b[0m\r\n<b>\xc3\xa4\x1b]0;t\x07y\tz\n"), uint8(3))
	f.Add([]byte("\x1b[38;5;1m\x1b[48;2;1;2;3m10%\r\x1b(B20%"), uint8(1))
	tag := regexp.MustCompile(`</?(div|span)( class="[a-z0-9 ]+")?( data-seq="\d+")?>`)
	f.Fuzz(func(t *testing.T, data []byte, piece uint8) {
		page := func(size int) string {
			r := newReader(nil)
			var b bytes.Buffer
			for rest := data; len(rest) > 0; {
				n := min(len(rest), size)
				r.html(&b, r.read(store.LogEntry{Seq: 1, Kind: store.LogOut, Step: "s", Data: rest[:n]}))
				rest = rest[n:]
			}
			for _, l := range r.unfinished() {
				l.html(&b)
			}
			return b.String()
		}
		whole := page(max(1, len(data)))
		require.Equal(t, strings.ReplaceAll(whole, ` data-seq="0"`, ` data-seq="1"`),
			strings.ReplaceAll(page(int(piece)%7+1), ` data-seq="0"`, ` data-seq="1"`))
		text := tag.ReplaceAllString(whole, "")
		require.NotContains(t, text, "<")
		require.NotContains(t, text, ">")
		require.True(t, utf8.ValidString(whole))
		for _, r := range html.UnescapeString(text) {
			require.True(t, r == '\n' || r == '\t' || r >= ' ', "%q", r)
		}
	})
}
