package result

// RegistrySettings say how a registry is reached, apart from what a document says about its own.
type RegistrySettings struct {
	Mirrors     []string `json:"mirrors,omitempty"`     // asked for base images first: hosts, or URLs whose path goes before the repository's
	CA          string   `json:"ca,omitempty"`          // PEM file: who vouches for it, besides the system's authorities
	Credentials string   `json:"credentials,omitempty"` // file in the form of Docker's config.json or of containers-auth.json
	PlainHTTP   bool     `json:"plain_http,omitempty"`  // it speaks http
	Insecure    bool     `json:"insecure,omitempty"`    // it may have a certificate that nobody vouches for, or speak http
}
