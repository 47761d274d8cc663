package apicli

import (
	"strings"

	"github.com/spf13/cobra"

	"imagebuilder/internal/command"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/auth"
)

// accessFlags say who is let in.
type accessFlags struct {
	keysFile      string
	introspection string
	clientID      string
	secretFile    string
	issuer        string
	audience      string
	groupClaims   []string
	roleClaims    []string
	scopes        map[string]*[]string // by scope of ours: which scopes and roles of a token give it
	webClient     string
	webSecretFile string
	webScopes     []string
	webResource   string
	webName       string
}

// Variables without flags: everybody on a machine can read command lines.
const (
	keyVariable       = "AUTH_API_KEY"
	secretVariable    = "OIDC_CLIENT_SECRET"
	webSecretVariable = "OIDC_WEB_CLIENT_SECRET"
)

// scopeFlags are the flags for what gives a scope.
var scopeFlags = []struct{ flag, variable, scope, what string }{
	{"scopes-submit", "AUTH_SCOPES_SUBMIT", auth.ScopeSubmit, "submit builds"},
	{"scopes-read", "AUTH_SCOPES_READ", auth.ScopeRead, "see their own builds"},
	{"scopes-read-all", "AUTH_SCOPES_READ_ALL", auth.ScopeReadAll, "see everybody's builds"},
	{"scopes-admin", "AUTH_SCOPES_ADMIN", auth.ScopeAdmin, "do everything"},
}

func (f *accessFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.keysFile, "api-keys", "", "YAML `FILE` with API keys, hashed, as 'key new' makes them; one key alone may stand in "+keyVariable)
	flags.StringVar(&f.introspection, "oidc-introspection-endpoint", "", "`URL` that tells whether an OAuth 2.0 token is good")
	flags.StringVar(&f.clientID, "oidc-client-id", "", "this service's client at the provider; its secret comes from "+secretVariable+" or a file")
	flags.StringVar(&f.secretFile, "oidc-client-secret-file", "", "`FILE` with that client's secret")
	flags.StringVar(&f.issuer, "oidc-issuer", "", "`URL` of an OpenID provider whose tokens (JWT) are verified here")
	flags.StringVar(&f.audience, "oidc-audience", "", "whom tokens have to be meant for; required with --oidc-issuer")
	flags.StringSliceVar(&f.groupClaims, "oidc-groups-claim", nil, "where a token names its groups, as groups or realm_access.roles")
	flags.StringSliceVar(&f.roleClaims, "oidc-roles-claim", nil, "where a token names roles, which count like scopes")
	flags.StringVar(&f.webClient, "oidc-web-client-id", "", "client of the provider of --oidc-issuer with which people sign in on the web page; "+
		"its secret, if it has one, comes from "+webSecretVariable+" or a file")
	flags.StringVar(&f.webSecretFile, "oidc-web-client-secret-file", "", "`FILE` with that client's secret")
	flags.StringSliceVar(&f.webScopes, "oidc-web-scopes", nil, "scopes that are asked for beside openid; by default email and profile")
	flags.StringVar(&f.webName, "oidc-web-name", "", "what the web page calls the provider")
	flags.StringVar(&f.webResource, "oidc-web-resource", "", "resource (RFC 8707) to ask tokens for, at providers that want one")
	defaults := auth.DefaultScopes()
	f.scopes = map[string]*[]string{}
	for _, s := range scopeFlags {
		value := new([]string)
		f.scopes[s.scope] = value
		flags.StringSliceVar(value, s.flag, defaults[s.scope], "scopes or roles of a token whose holders may "+s.what)
		command.Environment(flags, s.flag, s.variable)
	}
	for flag, variable := range map[string]string{
		"api-keys": "AUTH_API_KEYS_FILE", "oidc-introspection-endpoint": "OIDC_INTROSPECTION_ENDPOINT", "oidc-client-id": "OIDC_CLIENT_ID",
		"oidc-client-secret-file": "OIDC_CLIENT_SECRET_FILE", "oidc-issuer": "OIDC_ISSUER", "oidc-audience": "OIDC_AUDIENCE",
		"oidc-groups-claim": "OIDC_GROUPS_CLAIM", "oidc-roles-claim": "OIDC_ROLES_CLAIM", "oidc-web-client-id": "OIDC_WEB_CLIENT_ID",
		"oidc-web-client-secret-file": "OIDC_WEB_CLIENT_SECRET_FILE", "oidc-web-scopes": "OIDC_WEB_SCOPES", "oidc-web-resource": "OIDC_WEB_RESOURCE", "oidc-web-name": "OIDC_WEB_NAME",
	} {
		command.Environment(flags, flag, variable)
	}
}

// config is who is let in, and how people sign in on the web page.
func (f *accessFlags) config(lookupEnv func(string) (string, bool)) (auth.Config, *auth.SignIn, error) {
	key, _ := lookupEnv(keyVariable)
	c := auth.Config{APIKey: strings.TrimSpace(key), APIKeysFile: f.keysFile}
	secret, err := secretFrom(lookupEnv, secretVariable, f.secretFile)
	if err != nil {
		return c, nil, err
	}
	if f.introspection != "" {
		c.Introspection = &auth.Introspection{Endpoint: f.introspection, ClientID: f.clientID, ClientSecret: secret, Audience: f.audience, Issuer: f.issuer}
	}
	if f.issuer != "" && (f.audience != "" || f.introspection == "") {
		c.JWT = &auth.JWT{Issuer: f.issuer, Audience: f.audience}
	}
	c.Claims.Groups, c.Claims.Roles = f.groupClaims, f.roleClaims
	c.Claims.Scopes = map[string][]string{}
	for scope, value := range f.scopes {
		c.Claims.Scopes[scope] = *value
	}
	if f.webClient == "" {
		return c, nil, nil
	}
	if f.issuer == "" {
		return c, nil, fault.New(fault.Invalid, "--oidc-web-client-id needs --oidc-issuer")
	}
	webSecret, err := secretFrom(lookupEnv, webSecretVariable, f.webSecretFile)
	return c, &auth.SignIn{
		Issuer: f.issuer, ClientID: f.webClient, ClientSecret: webSecret, Scopes: f.webScopes, Resource: f.webResource,
	}, err
}
