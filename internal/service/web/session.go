package web

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/auth"
)

// signInPage is what the page to sign in shows.
type signInPage struct {
	Next     string // where to go afterwards
	Keys     bool   // API keys are accepted
	Provider string // what the OpenID provider is called; "": there is none
	Refused  string // why the last try was refused
	Ended    bool   // they have just signed out
}

// askToSignIn sends to the sign-in page, and back afterwards.
func (s *server) askToSignIn(w http.ResponseWriter, r *http.Request) error {
	if strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
		w.WriteHeader(http.StatusUnauthorized) // the page that follows loads itself again, and comes here
		return nil
	}
	next := "/builds"
	if r.Method == http.MethodGet && !fromScript(r) {
		next = auth.LocalPath(r.URL.RequestURI())
	}
	goTo(w, r, "/sign-in?next="+url.QueryEscape(next))
	return nil
}

func (s *server) signIn(w http.ResponseWriter, r *http.Request) error {
	next := auth.LocalPath(r.URL.Query().Get("next"))
	if _, err := s.config.Auth.Load(r); err == nil {
		goTo(w, r, next)
		return nil
	}
	return s.showSignIn(w, http.StatusOK, signInPage{Next: next, Ended: r.URL.Query().Has("signed-out")})
}

func (s *server) showSignIn(w http.ResponseWriter, status int, p signInPage) error {
	if p.Keys = s.config.Auth.TakesKeys(); s.config.Auth.HasProvider() {
		p.Provider = s.config.Provider
	}
	return s.show(w, status, "sign-in", frame{Title: "Sign in", Page: p})
}

func (s *server) signInWithKey(w http.ResponseWriter, r *http.Request) error {
	if err := s.form(w, r); err != nil {
		return err
	}
	next := auth.LocalPath(r.PostForm.Get("next"))
	_, err := s.config.Auth.SignInWithKey(w, r, r.PostForm.Get("key"))
	switch {
	case errors.Is(err, auth.ErrBadCredentials):
		return s.showSignIn(w, http.StatusForbidden, signInPage{Next: next, Refused: "There is no such API key."})
	case err != nil:
		return err
	}
	goTo(w, r, next)
	return nil
}

// signInElsewhere leads to the OpenID provider.
func (s *server) signInElsewhere(w http.ResponseWriter, r *http.Request) error {
	address, err := s.config.Auth.LoginURL(w, r, auth.LocalPath(r.URL.Query().Get("next")))
	if err != nil {
		return err
	}
	http.Redirect(w, r, address, http.StatusSeeOther)
	return nil
}

// signedInElsewhere is where the provider sends people back to.
func (s *server) signedInElsewhere(w http.ResponseWriter, r *http.Request) error {
	path, err := s.config.Auth.Callback(w, r)
	switch {
	case errors.Is(err, auth.ErrBadCredentials):
		return s.showSignIn(w, http.StatusForbidden, signInPage{Next: "/", Refused: fault.As(err).Message})
	case err != nil:
		return err
	}
	http.Redirect(w, r, path, http.StatusSeeOther)
	return nil
}

func (s *server) signOut(w http.ResponseWriter, r *http.Request, _ visitor) error {
	if err := s.config.Auth.SignOut(w, r); err != nil {
		return err
	}
	goTo(w, r, "/sign-in?signed-out")
	return nil
}
