package testbed

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/distribution/distribution/v3/registry/auth/token"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

const (
	tokenIssuer   = "testbed token service"
	tokenAudience = "testbed registry" // the "service" of the protocol
	tokenKeyID    = "testbed"
	tokenLifetime = 5 * time.Minute // what Docker Hub gives
)

// TokenOptions say what a token service knows and grants.
type TokenOptions struct {
	Users    map[string]TokenUser // by name; "" is who comes without credentials
	Lifetime time.Duration        // how long the registry takes a token for good, in whole seconds; default 5 minutes
	Claimed  time.Duration        // what the answer says about it; default Lifetime. A service may be wrong about its tokens.
	// Middleware stands in front of the token service.
	Middleware func(http.Handler) http.Handler
}

// TokenUser is one user of a token service.
type TokenUser struct {
	Password string
	// Access maps a repository, or a pattern of package path's, to what may be done with it: pull, push.
	Access map[string][]string
}

// tokenService grants tokens by the protocol of distribution's registry: GET with basic
// authentication, and POST as OAuth2 has it, with a password or a refresh token.
type tokenService struct {
	realm   string
	server  *http.Server
	options TokenOptions
	key     *ecdsa.PrivateKey
	refresh string // prefix that makes a user's name a refresh token; unguessable
}

func startTokenService(options TokenOptions, certificate *tls.Config) (*tokenService, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	if options.Lifetime == 0 {
		options.Lifetime = tokenLifetime
	}
	if options.Claimed == 0 {
		options.Claimed = options.Lifetime
	}
	listener, host, err := listen("")
	if err != nil {
		return nil, err
	}
	scheme := "http"
	if certificate != nil {
		scheme = "https"
	}
	s := &tokenService{realm: scheme + "://" + host + "/token", options: options, key: key, refresh: rand.Text() + "."}
	var handler http.Handler = s
	if options.Middleware != nil {
		handler = options.Middleware(handler)
	}
	s.server = serve(listener, handler, certificate)
	return s, nil
}

// Close stops the service.
func (s *tokenService) Close() error { return s.server.Close() }

// writeKeys writes the public key as a registry reads it.
func (s *tokenService) writeKeys(path string) error {
	data, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{
		Key: s.key.Public(), KeyID: tokenKeyID, Algorithm: string(jose.ES256), Use: "sig",
	}}})
	if err != nil {
		return fmt.Errorf("write the token service's keys: %w", err)
	}
	return os.WriteFile(path, data, 0o600)
}

func (s *tokenService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/token" || (r.Method != http.MethodGet && r.Method != http.MethodPost) {
		http.NotFound(w, r)
		return
	}
	if err := r.ParseForm(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	user, ok := s.authenticate(r)
	if !ok {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = fmt.Fprint(w, `{"errors":[{"code":"UNAUTHORIZED","message":"incorrect username or password"}]}`)
		return
	}
	signed, err := s.sign(user, scopes(r.Form["scope"]))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answer := map[string]any{
		"token": signed, "access_token": signed,
		"expires_in": int(s.options.Claimed.Seconds()), "issued_at": time.Now().UTC().Format(time.RFC3339),
	}
	if r.Form.Get("offline_token") == "true" || r.Form.Get("access_type") == "offline" {
		answer["refresh_token"] = s.refresh + user
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

// RefreshToken is what docker login would leave in place of a user's password. The registry must have a token service.
func (r *Registry) RefreshToken(user string) string { return r.tokens.refresh + user }

// authenticate names the user; false means that the credentials are wrong.
func (s *tokenService) authenticate(r *http.Request) (string, bool) {
	name, password, given := r.BasicAuth()
	if r.Method == http.MethodPost {
		switch r.PostForm.Get("grant_type") {
		case "refresh_token":
			name, ok := strings.CutPrefix(r.PostForm.Get("refresh_token"), s.refresh)
			_, known := s.options.Users[name]
			return name, ok && known
		case "password":
			name, password, given = r.PostForm.Get("username"), r.PostForm.Get("password"), true
		default:
			return "", false
		}
	}
	if !given {
		return "", true
	}
	user, ok := s.options.Users[name]
	return name, ok && name != "" && subtle.ConstantTimeCompare([]byte(user.Password), []byte(password)) == 1
}

// sign makes a token with what the user may do of what is asked for; that may be nothing.
func (s *tokenService) sign(user string, asked []*token.ResourceActions) (string, error) {
	key := jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: s.key, KeyID: tokenKeyID}}
	signer, err := jose.NewSigner(key, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	now := time.Now()
	return jwt.Signed(signer).Claims(token.ClaimSet{
		Issuer: tokenIssuer, Subject: user, Audience: token.AudienceList{tokenAudience},
		// The registry adds its leeway to what a token says about itself.
		Expiration: now.Add(s.options.Lifetime - token.Leeway).Add(time.Second - 1).Unix(),
		NotBefore:  now.Unix(), IssuedAt: now.Unix(), JWTID: rand.Text(),
		Access: s.grant(user, asked),
	}).Serialize()
}

func (s *tokenService) grant(user string, asked []*token.ResourceActions) []*token.ResourceActions {
	granted := []*token.ResourceActions{}
	for _, a := range asked {
		var actions []string
		for pattern, allowed := range s.options.Users[user].Access {
			if match, err := path.Match(pattern, a.Name); err != nil || !match {
				continue
			}
			for _, action := range a.Actions {
				if slices.Contains(allowed, action) && !slices.Contains(actions, action) {
					actions = append(actions, action)
				}
			}
		}
		if len(actions) > 0 {
			granted = append(granted, &token.ResourceActions{Type: a.Type, Name: a.Name, Actions: actions})
		}
	}
	return granted
}

// scopes reads "repository:team/app:pull,push"; several may stand in one value, divided by spaces.
func scopes(values []string) []*token.ResourceActions {
	var all []*token.ResourceActions
	for _, scope := range strings.Fields(strings.Join(values, " ")) {
		first, last := strings.Index(scope, ":"), strings.LastIndex(scope, ":")
		if first < 0 || first == last {
			continue
		}
		all = append(all, &token.ResourceActions{
			Type: scope[:first], Name: scope[first+1 : last], Actions: strings.Split(scope[last+1:], ","),
		})
	}
	return all
}
