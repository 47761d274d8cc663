package api_test

import (
	"context"
	"fmt"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// Swagger UI shows the document in a real browser, which finds nothing that its Content-Security-Policy forbids.
func TestUI(t *testing.T) {
	t.Parallel()
	program, err := exec.LookPath("chromium")
	require.NoError(t, err, "scripts/setup.sh packages chromium gets it")
	s := start(t)
	page := s.want(200, "", "GET", "/ui/", "")
	require.Contains(t, page.Header.Get("Content-Security-Policy"), "script-src 'self'")
	s.want(404, "", "GET", "/ui/none", "")
	s.want(307, "", "GET", "/ui", "")

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // a busy machine takes its time for a megabyte of JavaScript
	defer cancel()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program),
		chromedp.NoSandbox, // it takes a user namespace, which not every machine allows, and only our own page is shown
		chromedp.DisableGPU, chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))
	ctx, stop := chromedp.NewExecAllocator(ctx, options...)
	defer stop()
	ctx, _ = chromedp.NewContext(ctx)
	defer func() { require.NoError(t, chromedp.Cancel(ctx)) }()

	var mu sync.Mutex
	var faults []string
	require.NoError(t, chromedp.Do(ctx))
	require.NoError(t, chromedp.Listen(ctx, func(ev any) {
		mu.Lock()
		defer mu.Unlock()
		switch e := ev.(type) {
		case *log.EventEntryAdded:
			if e.Entry.Level != log.EntryLevelVerbose { // a recommendation
				faults = append(faults, fmt.Sprintf("%s: %s %s", e.Entry.Source, e.Entry.Text, e.Entry.URL))
			}
		case *runtime.EventExceptionThrown:
			faults = append(faults, "exception: "+e.ExceptionDetails.Text)
		}
	}))
	require.NoError(t, chromedp.Do(ctx,
		chromedp.EmulateViewport(1280, 1400),
		chromedp.Navigate(s.url+"/ui/"),
		chromedp.WaitVisible("#operations-invocations-submit_invocation"),
		chromedp.Click("#operations-invocations-submit_invocation .opblock-summary-control"),
		chromedp.WaitVisible("#operations-invocations-submit_invocation .opblock-body .responses-wrapper"),
	))
	text, err := chromedp.Run(ctx, chromedp.Text("#operations-invocations-submit_invocation"))
	require.NoError(t, err)
	require.Contains(t, text, "Idempotency-Key")
	mu.Lock()
	defer mu.Unlock()
	require.Empty(t, faults)
}
