package web_test

import (
	"encoding/json"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/secret"
	"imagebuilder/internal/service/builds"
	"imagebuilder/internal/service/store"
)

// TestForm fills the form in, wrongly first: what is wrong stands at the field, nothing that was typed is lost, and no secret comes back
// from the server.
func TestForm(t *testing.T) {
	t.Parallel()
	s := start(t)
	b := s.browse()
	b.expect("status of 422")
	b.signIn(s, "alice")
	b.open("/builds/new")
	b.fill(`[name="/source/git_repo/url"]`, "https://git.example.com/shop/web.git")
	b.fill(`[name="/source/git_repo/username"]`, "deploy")
	b.fill(`[name="/source/git_repo/password"]`, "git-swordfish")
	b.fill(`[name="/target/registry/url"]`, "registry.example.com")
	b.fill(`[name="/target/registry/username"]`, "robot")
	b.fill(`[name="/target/registry/password"]`, "registry-swordfish")
	b.fill(`[name="/target/images/0/image"]`, "Shop/Web")
	b.fill(`[name="/target/images/0/tag"]`, "v1")
	b.press(`input[value="linux/arm64"]`)
	b.press("fieldset:has([name='/options/secrets']) summary")
	b.fill(`[name="/options/secrets"]`, "token=canary=1")
	b.fill(`[name="/options/compression_level"]`, "much")
	b.fill(`[name="/options/build_args"]`, "A=1\nB")
	b.press("button[value=submit]:not(.away)")

	at := func(pointer string) string {
		return `document.getElementById(document.querySelector("[name='` + pointer + `']").getAttribute("aria-describedby")?.split(" ")[0])?.innerText ?? ""`
	}
	b.until(`document.querySelectorAll("[role=alert] li").length === 1`)
	require.Contains(t, js[string](b, at("/options/build_args")), "line 2 is not NAME=VALUE")
	require.Contains(t, js[string](b, `document.activeElement.innerText`), "1 problem", "the problems have the focus")
	b.fill(`[name="/options/build_args"]`, "A=1")
	b.press("button[value=submit]:not(.away)")
	b.until(`document.querySelectorAll("[role=alert] li").length === 2`)
	require.Contains(t, js[string](b, at("/target/images/0/image")), "capital letters")
	require.Contains(t, js[string](b, at("/options/compression_level")), "not a whole number")
	require.True(t, js[bool](b, `document.querySelector("[name='/options/compression_level']").checkVisibility()`), "what is wrong is not folded away")
	b.press("[role=alert] li a")
	require.Contains(t, []string{"/options/compression_level", "/target/images/0/image"}, js[string](b, `document.querySelector(":target").name`))

	value := func(pointer string) string {
		return js[string](b, `document.querySelector("[name='`+pointer+`']").value`)
	}
	require.Equal(t, "git-swordfish", value("/source/git_repo/password"), "kept in the browser")
	require.Equal(t, "registry-swordfish", value("/target/registry/password"))
	require.Equal(t, "token=canary=1", value("/options/secrets"))
	require.Equal(t, "robot", value("/target/registry/username"))
	require.Equal(t, "much", value("/options/compression_level"))
	require.True(t, js[bool](b, `document.querySelector("input[value='linux/arm64']").checked`))
	require.NotContains(t, js[string](b, `document.documentElement.outerHTML`), "swordfish", "not in the page's HTML")
	require.Zero(t, js[int](b, `document.querySelectorAll(".retype").length`), "nobody is asked to type again what is there")

	b.fill(`[name="/target/images/0/image"]`, "shop/web")
	b.fill(`[name="/options/compression_level"]`, "3")
	b.press("button[value=add-image]")
	// The page's script puts secrets back, a moment after there is a page.
	b.until(`document.querySelector("[name='/target/images/1/image']") && document.querySelector("[name='/target/registry/password']").value === "registry-swordfish"`)
	require.Equal(t, "registry-swordfish", value("/target/registry/password"))
	b.fill(`[name="/target/images/1/image"]`, "shop/admin")
	b.fill(`[name="/target/images/1/tag"]`, "v2")
	b.press("button[value=add-image]")
	b.until(`document.querySelector("[name='/target/images/2/image']")`)
	b.press("button[value=remove-image-2]")
	b.until(`!document.querySelector("[name='/target/images/2/image']")`)
	b.fill(`[name="/labels"]`, "team=shop")
	b.press("button[value=submit]:not(.away)")
	b.until(`document.querySelector("#summary .state")?.textContent === "Pending"`)

	w := s.claim()
	require.Equal(t, map[string]string{"team": "shop"}, w.lease.Invocation.Labels)
	document, err := buildparams.Decode(w.unseal(), "")
	require.NoError(t, err)
	require.Equal(t, []string{"linux/arm64"}, document.Target.Images[0].Platforms)
	require.Equal(t, "shop/admin", document.Target.Images[1].Image)
	require.Equal(t, map[string]string{"A": "1"}, document.Options.BuildArgs)
	require.Equal(t, 3, document.Options.CompressionLevel)
	revealed, err := buildparams.Resolve(document, secret.Resolver{})
	require.NoError(t, err)
	require.Equal(t, "git-swordfish", revealed.GitPassword)
	require.Equal(t, "registry-swordfish", revealed.RegistryPassword)
	require.Equal(t, []byte("canary=1"), revealed.Secrets["token"])
	require.NotContains(t, js[string](b, `document.documentElement.outerHTML`), "swordfish")
}

// TestDocument sends a document with a mistake: the page names the line, and keeps the text in the browser.
func TestDocument(t *testing.T) {
	t.Parallel()
	plan := json.RawMessage(`{"source":{"url":"https://git.example.com/shop/web.git","commit":"3f2a","dockerfile":"Dockerfile"},"engine":"buildkit",` +
		`"images":[{"ref":"registry.example.com/shop/web:v1","platforms":["linux/amd64"],"push":"allowed","bases":[{"from":"alpine","ref":"docker.io/library/alpine:3","digest":"sha256:1","replaced":true}]}]}`)
	s := start(t, func(c *builds.Config) { c.Planner = planner(plan) })
	b := s.browse()
	b.expect("status of 422")
	b.signIn(s, "alice")
	b.open("/builds/new?mode=document")
	const text = "source:\n  git_repo:\n    url: https://git.example.com/shop/web.git\ntarget:\n  registry:\n    url: registry.example.com\n    password: swordfish # of the robot\n    username: robot\n  images:\n    - image: shop/web\n      tag: \"?\"\n"
	b.fill("#document", text)
	b.press("button[value=submit]:not(.away)")
	b.until(`document.querySelector("[role=alert]")`)
	require.Contains(t, b.text("[role=alert]"), "/target/images/0/tag (line 11) is not a valid tag")
	require.Equal(t, text, js[string](b, `document.querySelector("#document").value`))
	require.NotContains(t, js[string](b, `document.documentElement.outerHTML`), "swordfish")

	js[bool](b, `(() => { const e = document.querySelector("#document"); e.value = e.value.replace("?", "v1"); return true; })()`)
	b.press("button[value=plan]")
	b.until(`document.querySelector("#plan")`)
	require.Contains(t, b.text("main"), "docker.io/library/alpine:3")
	b.look("new-plan")
	b.press("button[value=submit]:not(.away)")
	b.until(`document.querySelector("#summary .state")?.textContent === "Pending"`)
	require.Contains(t, string(s.claim().unseal()), "swordfish")
}

// TestKeyboard goes from signing in to a submitted and cancelled build by keys alone.
func TestKeyboard(t *testing.T) {
	t.Parallel()
	s := start(t)
	b := s.browse()
	keys := func(text string) { b.t.Helper(); b.do(chromedp.KeyEvent(text)) }
	focused := func() string {
		return js[string](b, `(e => e.name || e.id || e.getAttribute("href") || e.innerText)(document.activeElement) || ""`)
	}
	// to presses Tab until something has the focus, which must be seen.
	to := func(what string) {
		t.Helper()
		for range 80 {
			keys(kb.Tab)
			if focused() == what {
				require.True(t, js[bool](b, `(e => e.matches(":focus-visible") && ["", "::after"].some(p => parseFloat(getComputedStyle(e, p).outlineWidth) >= 2 && getComputedStyle(e, p).outlineStyle !== "none"))(document.activeElement)`), "%s: the focus is seen", what)
				return
			}
		}
		require.Fail(t, "the keyboard does not come there", what)
	}
	b.open("/sign-in")
	require.Equal(t, "key", focused(), "one can type at once")
	keys(s.keys["alice"] + kb.Enter)
	b.until(`location.pathname === "/builds" && document.readyState === "complete"`)
	keys(kb.Tab)
	require.Equal(t, "#main", focused(), "the first stop is the way past the menu")
	keys(kb.Enter)
	to("/builds/new")
	keys(kb.Enter)
	b.until(`location.pathname === "/builds/new" && document.readyState === "complete"`)
	to("/source/git_repo/url")
	keys("https://git.example.com/shop/web.git")
	to("/target/registry/url")
	keys("registry.example.com")
	to("/target/images/0/image")
	keys("shop/web")
	to("/target/images/0/tag")
	keys("v1" + kb.Enter) // sends, as in any form
	b.until(`document.querySelector("#summary .state")?.textContent === "Pending"`)
	to("Cancel")
	keys(kb.Enter)
	b.until(`document.querySelector("#summary .state")?.textContent === "Cancelled"`)
	b.open("/builds")
	to("/builds/" + js[string](b, `document.querySelector("ol.builds > li").id.replace("build-", "")`))
	keys(kb.Enter)
	b.until(`document.querySelector("#summary .state")?.textContent === "Cancelled"`)
	to("log")
}

// TestWithoutScripts does the whole way with scripts switched off.
func TestWithoutScripts(t *testing.T) {
	t.Parallel()
	s := start(t)
	b := s.browse()
	b.expect("status of 422")
	b.withoutScripts()
	b.signIn(s, "alice")
	b.open("/builds/new?mode=document")
	b.fill("#document", "source:\n  git_repo: {url: https://git.example.com/shop/web.git}\ntarget:\n  registry: {url: registry.example.com, username: robot, password: swordfish}\n  images: [{image: shop/web, tag: '?'}]\n")
	b.press("button[value=submit]:not(.away)")
	b.until(`document.querySelector("[role=alert]")`)
	text := js[string](b, `document.querySelector("#document").value`)
	require.Contains(t, text, "shop/web", "what is no secret is still there")
	require.NotContains(t, js[string](b, `document.documentElement.outerHTML`), "swordfish")
	require.Contains(t, b.text("main"), "not shown again")

	b.open("/builds/new")
	b.fill(`[name="/source/git_repo/url"]`, "https://git.example.com/shop/web.git")
	b.fill(`[name="/target/registry/url"]`, "registry.example.com")
	b.fill(`[name="/target/registry/password"]`, "swordfish")
	b.press("button[value=add-image]")
	b.until(`document.querySelector("[name='/target/images/1/image']")`)
	require.Contains(t, b.text("main"), "type it in once more")
	b.press("button[value=remove-image-1]")
	b.until(`!document.querySelector("[name='/target/images/1/image']")`)
	b.fill(`[name="/target/images/0/image"]`, "shop/web")
	b.fill(`[name="/target/images/0/tag"]`, "v1")
	b.press("button[value=submit]:not(.away)")
	b.until(`document.querySelector("#summary .state")?.textContent === "Pending"`)
	w := s.claim()
	w.out("run", "hello\n")
	w.finish(store.Outcome{State: store.StateSuccess})
	b.do(chromedp.Reload())
	require.Contains(t, b.text("#log"), "hello")
	require.Equal(t, "Success", b.text("#summary .state"))
}
