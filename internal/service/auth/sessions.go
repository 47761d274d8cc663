package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/store"
)

// Where the web page and this package meet.
const (
	CSRFField  = "csrf"         // form field with Session.CSRF
	CSRFHeader = "X-CSRF-Token" // header with the same, for requests without a form
	// CallbackPath is where the provider sends people back to, below the public URL: to be allowed there as redirect URI.
	CallbackPath = "/login/callback"
)

const (
	sessionCookie = "ib_session"
	loginCookie   = "ib_login"
	// touchEvery is how often a session's idle time is begun anew: each write costs the database, none is missed within it.
	touchEvery = time.Minute
	// maxCookie bounds what is read of a cookie of ours; they have 43 bytes, and the path to come back to.
	maxCookie = 1024
)

// SessionStore keeps sessions for all replicas; *store.Store does. GetSession gives store.ErrNotFound for one that is not
// there or has run out. TouchSession moves the end of one that is there, and brings none back.
type SessionStore interface {
	PutSession(ctx context.Context, session store.Session) error
	GetSession(ctx context.Context, idHash []byte) (store.Session, error)
	TouchSession(ctx context.Context, idHash []byte, expires time.Time) error
	DeleteSession(ctx context.Context, idHash []byte) error
}

// SessionsConfig says how people are kept signed in on the web page.
type SessionsConfig struct {
	Store SessionStore
	// PublicURL is how browsers reach the service. Cookies are for https only unless it is http on a loopback address.
	PublicURL string
	SignIn    *SignIn       // nil: people sign in by API key only
	Lifetime  time.Duration // after which one has to sign in again; default 12 h: a working day
	Idle      time.Duration // the same after the last request; default 2 h
	Random    io.Reader     // default crypto/rand
}

// Sessions keep people signed in on the web page. They are made by NewSessions and may be used by many at once.
type Sessions struct {
	auth   *Authenticator
	config SessionsConfig
	origin string // scheme and host of PublicURL
	plain  bool   // http on loopback: cookies without Secure
	guard  *http.CrossOriginProtection
	login  *login // nil: no provider
}

// Session is somebody who is signed in.
type Session struct {
	Principal Principal
	CSRF      string // to be in each form: see CheckCSRF
	Expires   time.Time
}

// record is what is stored of a session, beside its end and its CSRF token.
type record struct {
	Principal Principal `json:"principal"`
	Key       string    `json:"key,omitempty"` // fingerprint of the API key that it was signed in with
	Started   time.Time `json:"started"`
}

// NewSessions makes Sessions. Error: fault.Invalid.
func NewSessions(a *Authenticator, config SessionsConfig) (*Sessions, error) {
	if config.Lifetime == 0 {
		config.Lifetime = 12 * time.Hour
	}
	if config.Idle == 0 {
		config.Idle = 2 * time.Hour
	}
	if config.Random == nil {
		config.Random = rand.Reader
	}
	if err := checkHTTP(config.PublicURL); err != nil {
		return nil, fault.New(fault.Invalid, "public URL: %w", err)
	}
	public, err := url.Parse(config.PublicURL)
	if err != nil {
		return nil, fault.New(fault.Invalid, "public URL: %w", err)
	}
	s := &Sessions{
		auth: a, config: config,
		origin: public.Scheme + "://" + public.Host,
		plain:  public.Scheme == "http" && isLoopback(public.Hostname()),
		guard:  http.NewCrossOriginProtection(),
	}
	if err := s.guard.AddTrustedOrigin(s.origin); err != nil {
		return nil, fault.New(fault.Invalid, "public URL: %w", err)
	}
	if config.SignIn != nil {
		if public.Hostname() == "" {
			return nil, fault.New(fault.Invalid, "sign-in through the OpenID provider: %s is no address that it can send people back to", config.PublicURL).
				WithHint("set the public URL")
		}
		if s.login, err = newLogin(a, *config.SignIn, s.origin+CallbackPath); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Protect refuses requests that change something and come from pages of other origins, by Sec-Fetch-Site and Origin.
// It stands before every handler that a session's cookie opens, the sign-in forms among them.
func (s *Sessions) Protect(next http.Handler) http.Handler { return s.guard.Handler(next) }

// Load gives the session that the request's cookie names. The error is ErrNoCredentials where nobody is signed in, also when
// the session has run out or its API key has been removed, and of kind fault.Unavailable when the database does not answer.
func (s *Sessions) Load(r *http.Request) (Session, error) {
	id, ok := s.cookie(r, sessionCookie)
	if !ok {
		return Session{}, noCredentials()
	}
	stored, err := s.config.Store.GetSession(r.Context(), hashOf(id))
	if errors.Is(err, store.ErrNotFound) {
		return Session{}, noCredentials()
	}
	if err != nil {
		return Session{}, fault.Wrap(err, "look the session up")
	}
	var saved record
	if err := json.Unmarshal(stored.Principal, &saved); err != nil {
		return Session{}, fmt.Errorf("read the session: %w", err)
	}
	now := s.auth.config.Now()
	end := saved.Started.Add(s.config.Lifetime)
	if !now.Before(stored.Expires) || !now.Before(end) {
		return Session{}, noCredentials()
	}
	if saved.Key != "" {
		if saved.Principal, ok = s.auth.keys.byFingerprint(saved.Key); !ok { // with what it may do now
			return Session{}, errors.Join(noCredentials(), s.config.Store.DeleteSession(r.Context(), stored.IDHash))
		}
	}
	if expires := earlier(end, now.Add(s.config.Idle)); expires.Sub(stored.Expires) >= touchEvery {
		if err := s.config.Store.TouchSession(r.Context(), hashOf(id), expires); err != nil {
			return Session{}, fault.Wrap(err, "keep the session")
		}
		stored.Expires = expires
	}
	return Session{Principal: saved.Principal, CSRF: stored.CSRF, Expires: stored.Expires}, nil
}

// SignInWithKey begins a session for the holder of an API key. Error: ErrBadCredentials.
func (s *Sessions) SignInWithKey(w http.ResponseWriter, r *http.Request, presented string) (Session, error) {
	if len(presented) > maxKeyLength {
		return Session{}, refused("the API key is longer than %d bytes", maxKeyLength)
	}
	p, k, err := s.auth.keys.find(presented)
	if err != nil {
		return Session{}, err
	}
	return s.begin(w, r, record{Principal: p, Key: k.fingerprint()})
}

// SignOut ends the session. It is to be called for a POST that CheckCSRF has let through.
func (s *Sessions) SignOut(w http.ResponseWriter, r *http.Request) error {
	s.setCookie(w, sessionCookie, "", -1)
	if id, ok := s.cookie(r, sessionCookie); ok {
		return fault.Wrap(s.config.Store.DeleteSession(r.Context(), hashOf(id)), "end the session")
	}
	return nil
}

// CheckCSRF refuses, with fault.Denied (403), a request that does not carry the session's token in its form or header.
// The caller bounds the body before: the form is read here.
func (s *Sessions) CheckCSRF(r *http.Request, session Session) error {
	token := r.Header.Get(CSRFHeader)
	if token == "" {
		token = r.PostFormValue(CSRFField) // not FormValue: addresses are logged, and can be made by others
	}
	if session.CSRF == "" || subtle.ConstantTimeCompare([]byte(token), []byte(session.CSRF)) != 1 {
		return fault.New(fault.Denied, "the form is not of this session").WithHint("load the page again and repeat what you did")
	}
	return nil
}

// begin makes a session under a new name, and ends the one that the browser had: what somebody may have planted there
// does not become a signed-in one.
func (s *Sessions) begin(w http.ResponseWriter, r *http.Request, saved record) (Session, error) {
	id, err := s.random()
	if err != nil {
		return Session{}, err
	}
	csrf, err := s.random()
	if err != nil {
		return Session{}, err
	}
	saved.Started = s.auth.config.Now()
	data, err := json.Marshal(saved)
	if err != nil {
		return Session{}, fmt.Errorf("begin a session: %w", err)
	}
	session := Session{Principal: saved.Principal, CSRF: csrf, Expires: earlier(saved.Started.Add(s.config.Lifetime), saved.Started.Add(s.config.Idle))}
	stored := store.Session{IDHash: hashOf(id), Principal: data, CSRF: csrf, Expires: session.Expires}
	if err := s.config.Store.PutSession(r.Context(), stored); err != nil {
		return Session{}, fault.Wrap(err, "begin a session")
	}
	if old, ok := s.cookie(r, sessionCookie); ok {
		if err := s.config.Store.DeleteSession(r.Context(), hashOf(old)); err != nil {
			return Session{}, fault.Wrap(err, "end the session of before")
		}
	}
	s.setCookie(w, sessionCookie, id, int(s.config.Lifetime/time.Second))
	return session, nil
}

// cookie reads a cookie of ours. A second one of the name was planted, from another path or a sub-domain: neither counts.
func (s *Sessions) cookie(r *http.Request, name string) (string, bool) {
	cookies := r.CookiesNamed(s.cookieName(name))
	if len(cookies) != 1 || cookies[0].Value == "" || len(cookies[0].Value) > maxCookie {
		return "", false
	}
	return cookies[0].Value, true
}

func (s *Sessions) setCookie(w http.ResponseWriter, name, value string, maxAge int) {
	http.SetCookie(w, &http.Cookie{
		Name: s.cookieName(name), Value: value, Path: "/", MaxAge: maxAge,
		Secure: !s.plain, HttpOnly: true,
		SameSite: http.SameSiteLaxMode, // not Strict: one comes back from the provider, and by links in messages
	})
}

// cookieName has the prefix by which browsers keep a cookie from being set by sub-domains and by plain http.
func (s *Sessions) cookieName(name string) string {
	if s.plain {
		return name
	}
	return "__Host-" + name
}

// random gives 256 bits as text.
func (s *Sessions) random() (string, error) {
	bytes := make([]byte, 32)
	if _, err := io.ReadFull(s.config.Random, bytes); err != nil {
		return "", fmt.Errorf("make a session: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(bytes), nil
}

// hashOf is what a session is stored under: whoever reads the database cannot take sessions over.
func hashOf(id string) []byte {
	hash := sha256.Sum256([]byte(id))
	return hash[:]
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
