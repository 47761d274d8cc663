package web

import "net/http"

// policy is the Content-Security-Policy of all pages: scripts and styles come from /static/ only, and nothing may be inline.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; " +
	"frame-ancestors 'none'; base-uri 'none'"

// secure sets the headers that every answer has, and refuses forms that another site's page has sent.
func (s *server) secure(next http.Handler) http.Handler {
	checked := s.config.Auth.Protect(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		// Pages hold what only this visitor may see.
		h.Set("Cache-Control", "no-store")
		checked.ServeHTTP(w, r)
	})
}

// fromScript tells whether htmx has sent the request: it puts the answer into the page that there is.
func fromScript(r *http.Request) bool { return r.Header.Get("HX-Request") == "true" }

// goTo sends the visitor to another page.
func goTo(w http.ResponseWriter, r *http.Request, path string) {
	if fromScript(r) {
		w.Header().Set("HX-Redirect", path)
		return
	}
	http.Redirect(w, r, path, http.StatusSeeOther)
}
