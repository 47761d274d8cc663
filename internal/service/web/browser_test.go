package web_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

// patience is how long tests wait for what takes less than a second on an idle machine.
const patience = 60 * time.Second

// browser is the one Chromium that all tests share; each has a profile of its own in it.
var browser struct {
	sync.Once
	ctx  context.Context
	stop context.CancelFunc
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if browser.ctx != nil {
		if err := chromedp.Cancel(browser.ctx); err != nil && code == 0 {
			fmt.Fprintln(os.Stderr, "stop the browser:", err)
			code = 1
		}
		browser.stop()
	}
	removePlugin()
	os.Exit(code)
}

func startBrowser() {
	program, err := exec.LookPath("chromium")
	if err != nil {
		browser.err = fmt.Errorf("%w: get it with scripts/setup.sh packages chromium", err)
		return
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(program),
		chromedp.NoSandbox, // it takes a user namespace, which not every machine allows, and only our own pages are shown
		chromedp.DisableGPU, chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
	)
	ctx, stop := chromedp.NewExecAllocator(context.Background(), options...)
	browser.ctx, _ = chromedp.NewContext(ctx)
	browser.stop = stop
	browser.err = chromedp.Do(browser.ctx)
}

// tab is a page of the browser, and what it complains about.
type tab struct {
	t   testing.TB
	ctx context.Context
	url string // of the site

	mu       sync.Mutex
	faults   []string
	expected []string // parts of complaints that a test brings about
}

// browse opens a tab in a profile of its own. At the end of the test, the browser must have complained of nothing: no violation of the
// Content-Security-Policy, no exception, nothing that could not be loaded.
func (s *site) browse() *tab {
	s.t.Helper()
	browser.Do(startBrowser)
	require.NoError(s.t, browser.err)
	ctx, cancel := chromedp.NewContext(browser.ctx, chromedp.WithNewBrowserContext())
	b := &tab{t: s.t, ctx: ctx, url: s.url}
	require.NoError(s.t, chromedp.Listen(ctx, b.hear))
	b.do(chromedp.EmulateViewport(1280, 900))
	s.t.Cleanup(func() {
		b.requireQuiet()
		cancel()
	})
	return b
}

func (b *tab) hear(ev any) {
	var text string
	switch e := ev.(type) {
	case *cdplog.EventEntryAdded:
		if e.Entry.Level == cdplog.EntryLevelVerbose { // a recommendation
			return
		}
		text = fmt.Sprintf("%s: %s %s", e.Entry.Source, e.Entry.Text, e.Entry.URL)
	case *runtime.EventConsoleAPICalled:
		text = fmt.Sprintf("console.%s", e.Type)
		for _, a := range e.Args {
			text += " " + string(a.Value) + a.Description
		}
	case *runtime.EventExceptionThrown:
		text = "exception: " + e.ExceptionDetails.Text
		if e.ExceptionDetails.Exception != nil {
			text += " " + e.ExceptionDetails.Exception.Description
		}
	default:
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults = append(b.faults, text)
}

// expect has the browser's complaints with a text in them not count.
func (b *tab) expect(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.expected = append(b.expected, text)
}

func (b *tab) requireQuiet() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range b.faults {
		known := false
		for _, e := range b.expected {
			known = known || strings.Contains(f, e)
		}
		require.True(b.t, known, "the browser complains: %s", f)
	}
}

func (b *tab) within() (context.Context, context.CancelFunc) {
	return context.WithTimeout(b.ctx, patience)
}

func (b *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := b.within()
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		shown, _ := chromedp.Run(b.ctx, chromedp.Evaluate[string](`location.href + "\n" + document.body.innerText.slice(0, 600)`))
		require.NoError(b.t, err, shown)
	}
}

func (b *tab) open(path string) {
	b.t.Helper()
	b.do(chromedp.Navigate(b.url + path))
}

func (b *tab) signIn(s *site, name string) {
	b.t.Helper()
	b.open("/sign-in")
	b.fill("#key", s.keys[name])
	b.press("form[action='/sign-in'] button")
	b.until(`location.pathname !== "/sign-in" && document.readyState === "complete"`)
}

func (b *tab) fill(selector, text string) {
	b.t.Helper()
	css := chromedp.CSS(selector)
	b.do(chromedp.WaitVisible(css), chromedp.Focus(css), chromedp.Evaluate[chromedp.Void](fmt.Sprintf(`document.querySelector(%q).value = ""`, selector)))
	b.do(chromedp.SendKeys(css, text))
}

func (b *tab) press(selector string) {
	b.t.Helper()
	b.do(chromedp.Click(chromedp.CSS(selector), chromedp.NodeVisible))
}

// js evaluates an expression.
func js[T any](b *tab, expression string) T {
	b.t.Helper()
	ctx, cancel := b.within()
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	require.NoError(b.t, err, expression)
	return v
}

// text is what an element says. A page that is being loaded is waited for: it does not have all of its elements yet.
func (b *tab) text(selector string) string {
	b.t.Helper()
	b.until(fmt.Sprintf(`document.readyState === "complete" && document.querySelector(%q)`, selector))
	return js[string](b, fmt.Sprintf(`document.querySelector(%q).innerText`, selector))
}

// until waits for an expression to be true, on this page or on one that comes in its place.
func (b *tab) until(expression string) {
	b.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		ctx, cancel := b.within()
		ok, err := chromedp.Run(ctx, chromedp.Evaluate[bool](`!!(`+expression+`)`))
		cancel()
		if err == nil && ok { // it is an error while a page is being loaded
			return
		}
	}
	require.Failf(b.t, "the page does not come there", "%s\n%s", expression, js[string](b, `location.href + "\n" + document.body.innerText.slice(0, 600)`))
}

// form is how a page is looked at.
type form struct {
	name          string
	width, height int64
	scheme        string
}

func forms() []form {
	return []form{
		{"wide-light", 1280, 900, "light"}, {"wide-dark", 1280, 900, "dark"},
		{"phone-light", 360, 740, "light"}, {"phone-dark", 360, 740, "dark"},
	}
}

func (b *tab) as(f form) {
	b.t.Helper()
	b.do(chromedp.EmulateViewport(f.width, f.height))
	ctx, cancel := b.within()
	defer cancel()
	_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: f.scheme}},
	})
	require.NoError(b.t, err)
}

// look has axe-core look at the page in every form, and requires that it finds nothing and that nothing is wider than the screen.
// WEB_SCREENSHOTS names a folder for pictures of it, for people to look at.
func (b *tab) look(name string) {
	b.t.Helper()
	root, err := testbed.RepoRoot()
	require.NoError(b.t, err)
	file := filepath.Join(root, ".work/node/node_modules/axe-core/axe.min.js")
	axe, err := os.ReadFile(file)
	require.NoError(b.t, err, "get it with scripts/setup.sh node")
	b.do(chromedp.Evaluate[chromedp.Void](string(axe) + ";0"))
	for _, f := range forms() {
		b.as(f)
		found := js[[]map[string]any](b, `axe.run(document, {resultTypes: ["violations"]}).then(r => r.violations.map(v => ({id: v.id, help: v.help, nodes: v.nodes.map(n => n.html + "\n  " + n.failureSummary)})))`)
		if len(found) > 0 {
			text, _ := json.MarshalIndent(found, "", "  ")
			require.Empty(b.t, found, "axe-core finds faults on %s, %s: %s", name, f.name, text)
		}
		wide := js[string](b, `[...document.querySelectorAll("main *")].filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".scroll, .log, .away, .hits") && getComputedStyle(e).position !== "absolute").map(e => e.outerHTML.slice(0, 200)).slice(0, 3).join("\n")`)
		require.Empty(b.t, wide, "%s, %s: wider than the screen", name, f.name)
		if folder := os.Getenv("WEB_SCREENSHOTS"); folder != "" {
			ctx, cancel := b.within()
			picture, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
			cancel()
			require.NoError(b.t, err)
			require.NoError(b.t, os.WriteFile(filepath.Join(folder, name+"-"+f.name+".png"), picture, 0o600))
		}
	}
	b.as(forms()[0])
}

// withoutScripts switches the page's own scripts off; those of the test go on.
func (b *tab) withoutScripts() {
	b.t.Helper()
	ctx, cancel := b.within()
	defer cancel()
	_, err := chromedp.Call(ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	require.NoError(b.t, err)
}
