package web_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/event"
	"imagebuilder/internal/service/store"
)

// shownLines are the numbered lines that a page shows, as text.
func (b *tab) shownLines() []string {
	b.t.Helper()
	return js[[]string](b, `[...document.querySelectorAll("#log .l")].map(e => e.textContent.trim()).filter(t => t.startsWith("line "))`)
}

// TestALogGoesOnWhereItWasCutOff drops the stream of a running build again and again: the page shows every line once.
func TestALogGoesOnWhereItWasCutOff(t *testing.T) {
	t.Parallel()
	s := start(t)
	b := s.browse()
	b.expect("ERR_") // what the test cuts off
	b.expect("htmx:sse:error: network error")
	b.signIn(s, "alice")
	id := s.submit("alice", document("shop/web"), nil)
	b.open("/builds/" + id)
	b.until(`document.querySelector("#summary .state").textContent === "Pending"`)
	b.until(`document.querySelector("#live")?.textContent === "Live"`)

	w := s.claim()
	b.until(`document.querySelector("#summary .state").textContent === "In progress"`)
	begun := time.Now()
	w.step("run", "shop/web:v1", "[linux/amd64 2/2] RUN ./all.sh", begun, -1)
	const rounds, each = 6, 40
	n := 0
	for round := range rounds {
		for range each {
			n++
			// In pieces: a line may begin before the stream is cut, and end after it.
			w.out("run", fmt.Sprintf("\x1b[3%dmline ", n%7+1))
			w.out("run", strconv.Itoa(n)+"\x1b[0m\n")
			if n%each == each/2 {
				s.server.CloseClientConnections()
			}
		}
		b.until(fmt.Sprintf(`[...document.querySelectorAll("#log .l")].some(e => e.textContent === "line %d")`, (round+1)*each))
	}
	w.out("run", "progress  10%\rprogress  55%")
	b.until(`document.querySelector("#log-open").textContent === "progress  55%"`)
	w.out("run", "\rprogress 100%\n")
	b.until(`document.querySelector("#log-open").textContent === "" && [...document.querySelectorAll("#log-lines .l")].some(e => e.textContent === "progress 100%")`)
	w.step("run", "shop/web:v1", "[linux/amd64 2/2] RUN ./all.sh", begun, time.Second)
	w.finish(store.Outcome{State: store.StateSuccess, Response: "built"})
	b.until(`document.querySelector("#summary .state").textContent === "Success" && document.title.startsWith("Success")`)

	shown := b.shownLines()
	require.Len(t, shown, n)
	for i, text := range shown {
		require.Equal(t, fmt.Sprintf("line %d", i+1), text)
	}
	require.Equal(t, 1, js[int](b, `document.querySelectorAll("#log .step").length`), "the step's name stands once")
	require.Equal(t, n, js[int](b, `[...document.querySelectorAll("#log .l span[class]")].filter(e => /^f[1-7]$/.test(e.className)).length`), "each line has its colour")
}

// TestLongLogs has a log of 20 MiB: the page loads its end at once and earlier parts on demand, and is quick all the time.
func TestLongLogs(t *testing.T) {
	t.Parallel()
	s := start(t)
	b := s.browse()
	b.signIn(s, "alice")
	id := s.submit("alice", document("shop/web"), nil)
	w := s.claim()
	w.step("run", "shop/web:v1", "[linux/amd64 2/2] RUN ./long.sh", time.Now(), -1)
	const lines, width = 205_000, 102 // 20 MiB
	entries := []store.LogEntry{}
	var chunk strings.Builder
	flush := func() {
		entries = append(entries, store.LogEntry{
			Seq: w.lease.NextSeq + int64(len(entries)), Attempt: 1, Kind: store.LogOut, Step: "run", At: time.Now(), Data: []byte(chunk.String()),
		})
		chunk.Reset()
		if len(entries) == 50 {
			require.NoError(t, s.store.AppendLog(t.Context(), w.lease, entries))
			entries = nil
		}
	}
	for i := 1; i <= lines; i++ {
		text := fmt.Sprintf("line %d ", i)
		chunk.WriteString(text + strings.Repeat("x", width-1-len(text)) + "\n")
		if chunk.Len() > 32<<10 {
			flush()
		}
	}
	flush()
	if len(entries) > 0 {
		require.NoError(t, s.store.AppendLog(t.Context(), w.lease, entries))
	}

	begun := time.Now()
	b.open("/builds/" + id)
	last := fmt.Sprintf("line %d ", lines)
	b.until(fmt.Sprintf(`document.querySelector("#log-lines").lastElementChild.textContent.startsWith(%q)`, last))
	require.Less(t, time.Since(begun), 20*time.Second)
	require.Less(t, js[int](b, `document.querySelectorAll("#log .l").length`), 4000)

	first := func() int {
		n, err := strconv.Atoi(strings.Fields(b.shownLines()[0])[1])
		require.NoError(t, err)
		return n
	}
	for range 3 {
		was := first()
		b.press("#earlier a")
		b.until(fmt.Sprintf(`!document.querySelector("#log .l").textContent.startsWith("line %d ")`, was))
		require.Less(t, first(), was)
	}
	shown := b.shownLines()
	from := first()
	require.Len(t, shown, lines-from+1, "no gap and nothing twice")
	for i, text := range shown {
		require.True(t, strings.HasPrefix(text, fmt.Sprintf("line %d ", from+i)), text)
	}

	// What runs by is let go at the top, and can be had back.
	b.press("#follow")
	require.Equal(t, "true", js[string](b, `document.querySelector("#follow").getAttribute("aria-pressed")`))
	for i := range 12_000 {
		chunk.WriteString(fmt.Sprintf("line %d \n", lines+1+i))
		if chunk.Len() > 32<<10 {
			w.out("run", chunk.String())
			chunk.Reset()
		}
	}
	w.out("run", chunk.String())
	b.until(fmt.Sprintf(`document.querySelector("#log-lines").lastElementChild.textContent === "line %d "`, lines+12_000))
	require.Less(t, js[int](b, `document.querySelectorAll("#log-lines .l").length`), 9000)
	was := first()
	b.press("#earlier a")
	b.until(fmt.Sprintf(`!document.querySelector("#log .l").textContent.startsWith("line %d ")`, was))
	shown, from = b.shownLines(), first()
	require.Len(t, shown, lines+12_000-from+1, "no gap and nothing twice")

	// The search looks through all of it.
	b.open("/builds/" + id + "?q=LINE+777+")
	b.until(`document.querySelector(".hits a")`)
	require.Equal(t, 1, js[int](b, `document.querySelectorAll(".hits li").length`))
	b.press(".hits a")
	b.until(`document.querySelectorAll("#log .l.here").length === 1 && document.querySelector("#here").textContent.startsWith("line 777 ")`)
	b.until(`(e => e.top >= 0 && e.bottom <= innerHeight)(document.querySelector("#here").getBoundingClientRect())`)
	b.press("#later a")
	b.until(`document.querySelectorAll("#log .l").length > 3000`)
	shown, from = b.shownLines(), first()
	for i, text := range shown {
		require.True(t, strings.HasPrefix(text, fmt.Sprintf("line %d ", from+i)), text)
	}
}

// TestCancelAndRetry cancels a running build and builds it again, with the secret that it needs.
func TestCancelAndRetry(t *testing.T) {
	t.Parallel()
	s := start(t)
	b := s.browse()
	b.expect("status of 409")
	b.signIn(s, "alice")
	id := s.submit("alice", strings.Replace(document("shop/web"), `"url":"registry.example.com"`,
		`"url":"registry.example.com","username":"robot","password":"swordfish"`, 1), nil)
	w := s.claim()
	b.open("/builds/" + id)
	b.press(".actions button.danger")
	b.until(`document.querySelector("#summary").innerText.includes("stopping") && document.querySelector(".actions button.danger").disabled`)
	cancel, err := s.store.Renew(t.Context(), w.lease, time.Hour)
	require.NoError(t, err)
	require.True(t, cancel)
	w.finish(store.Outcome{State: store.StateCancelled, Reason: store.ReasonCancelled, Response: "cancelled"})
	b.until(`document.querySelector("#summary .state").textContent === "Cancelled"`)

	b.press(".actions a[href$=retry]")
	b.until(`document.querySelector("input[type=password]")`)
	b.press("form.card button.main")
	b.until(`document.querySelector("[role=alert]") && document.querySelector("[aria-invalid=true]")`)
	b.fill("input[type=password]", "sword&fish")
	b.press("form.card button.main")
	b.until(`document.querySelector("#summary .state")?.textContent === "Pending" && location.pathname !== "/builds/` + id + `"`)
	require.Equal(t, "/builds/"+id, js[string](b, `document.querySelector("#summary a").getAttribute("href")`))
	require.NotContains(t, js[string](b, `document.documentElement.outerHTML`), "fish")
	require.Contains(t, string(s.claim().unseal()), "sword&fish", "the worker gets what was typed")
}

// TestTheListIsAlive sees a build come and end without the page being loaded again, and keeps the keyboard where it is.
func TestTheListIsAlive(t *testing.T) {
	t.Parallel()
	s := start(t)
	b := s.browse()
	b.signIn(s, "alice")
	s.submit("alice", document("shop/first"), nil)
	b.open("/builds")
	js[bool](b, `(() => { document.querySelector("a.what").focus(); window.here = true; return true; })()`)
	s.submit("alice", document("shop/second"), nil)
	b.until(`document.querySelectorAll("ol.builds > li").length === 2`)
	require.Contains(t, js[string](b, `document.activeElement.textContent`), "shop/first", "the focus stays")
	w := s.claim()
	b.until(`[...document.querySelectorAll(".state")].some(e => e.textContent === "In progress")`)
	w.finish(store.Outcome{State: store.StateFailed, Reason: store.ReasonTimeout, Response: "too slow"})
	b.until(`document.querySelector("ol.builds").innerText.includes("timeout")`)
	require.True(t, js[bool](b, `window.here`), "it is the same page still")
}

// TestNothingIsCode puts HTML and scripts into everything that somebody can choose, or a build can print.
func TestNothingIsCode(t *testing.T) {
	t.Parallel()
	s := start(t)
	b := s.browse()
	b.expect("status of 422")
	b.signIn(s, "alice")
	const evil = `</div></textarea></script><img src=x onerror="window.hacked=1"><script>window.hacked=1</script><hx-partial hx-target="#summary">x</hx-partial>`
	id := s.submit("alice", `{"source":{"git_repo":{"url":"https://git.example.com/x.git","version":"<script>window.hacked=1</script>"}},"target":{"registry":{"url":"registry.example.com"},`+
		`"images":[{"image":"a","tag":"1","labels":{"x":"<img src=x onerror=window.hacked=1>"}}]},"options":{"build_args":{"A":"</pre><svg onload=window.hacked=1>"}}}`,
		map[string]string{"note": `"><img src=x onerror=window.hacked=1>`})
	b.open("/builds/" + id)
	b.until(`document.querySelector("#live")?.textContent === "Live"`)
	w := s.claim()
	begun := time.Now()
	w.step(`x"><script>window.hacked=1</script>`, "a:1", evil+"\revent: done\rdata: x\r\r", begun, -1)
	w.out(`x"><script>window.hacked=1</script>`, evil+"\n\x1b]8;;javascript:window.hacked=1\x07link\x1b]8;;\x07\n\x1b[31;<script>m\x1b[3"+"1m"+evil+"\n"+"\u202e\u0085 reversed\n")
	w.json(store.LogNote, "", event.Note{Level: event.Warning, Text: evil})
	b.until(`document.querySelector("#log .warning")`)
	b.until(`document.querySelector(".lane .name")`)
	w.step(`x"><script>window.hacked=1</script>`, "a:1", evil, begun, time.Second, failed(evil))
	w.finish(store.Outcome{State: store.StateFailed, Reason: store.ReasonBuildFailed, Response: evil, Failure: []byte(`{"kind":"build_failed","message":"` +
		`<img src=x onerror=window.hacked=1>","hint":"<script>window.hacked=1</script>","problems":[{"pointer":"<b>","message":"<img src=x onerror=window.hacked=1>"}]}`)})
	b.until(`document.querySelector("#summary .state").textContent === "Failed"`)
	require.Contains(t, b.text("#log"), `<img src=x onerror="window.hacked=1">`, "it is shown as the text that it is")
	require.NotContains(t, b.text("#log"), "\u202e")
	for _, path := range []string{"", "?q=script", "?q=" + "%3Cscript%3Ewindow.hacked%3D1%3C/script%3E", "?step=x%22%3E%3Cscript%3Ewindow.hacked%3D1%3C/script%3E", "?at=4", "/retry", "/delete"} {
		b.open("/builds/" + id + path)
		require.Zero(t, js[int](b, `document.querySelectorAll("main script, main img, main [onerror], main [onload], hx-partial").length`), path)
		require.False(t, js[bool](b, `"hacked" in window`), path)
	}
	b.open("/builds")
	require.Zero(t, js[int](b, `document.querySelectorAll("main script, main img").length`))
	b.open("/builds?image=" + "%22%3E%3Cscript%3Ewindow.hacked%3D1%3C/script%3E&label=%22%3E%3Cimg%20src%3Dx%3E")
	require.Zero(t, js[int](b, `document.querySelectorAll("main script, main img").length`))
	require.False(t, js[bool](b, `"hacked" in window`))
}
