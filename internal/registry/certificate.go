package registry

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"imagebuilder/internal/fault"
)

// explainCertificate says whose word is missing for a host's certificate.
func (e *endpoint) explainCertificate(err error) *fault.Error {
	text := fmt.Sprintf("the certificate of %s is not trusted: %s", e.host, e.bare(err))
	if issuer := unknownIssuer(err); issuer != "" {
		text += fmt.Sprintf("; it is signed by %q", e.quote(issuer))
		if len(e.reach.authorities) > 0 {
			text += fmt.Sprintf(", and the CA certificate that was given is that of %q", e.quote(strings.Join(e.reach.authorities, `", "`)))
		}
	}
	return fault.New(fault.Invalid, "%s", text).
		WithHint("%s", e.advice("give the certificate of the authority that signed it as target.registry.ca_cert, or set target.registry.insecure", "ca"))
}

// advice is what to do about how a host is reached: in the document for its own registry, in the configuration file for others.
func (e *endpoint) advice(document, field string) string {
	if e.canonical == e.client.host {
		return document
	}
	return fmt.Sprintf("set registries.%q.%s in the configuration file", e.canonical, field)
}

// unknownIssuer is the authority that a server's chain ends with, "" when something else is wrong with its certificate.
func unknownIssuer(err error) string {
	var (
		verification *tls.CertificateVerificationError
		authority    x509.UnknownAuthorityError
	)
	if !errors.As(err, &authority) {
		return ""
	}
	if errors.As(err, &verification) && len(verification.UnverifiedCertificates) > 0 {
		return verification.UnverifiedCertificates[len(verification.UnverifiedCertificates)-1].Issuer.String()
	}
	if authority.Cert != nil {
		return authority.Cert.Issuer.String()
	}
	return ""
}

// subjects are whose certificates a PEM text holds.
func subjects(text []byte) []string {
	var all []string
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if certificate, err := x509.ParseCertificate(block.Bytes); err == nil {
			all = append(all, certificate.Subject.String())
		}
	}
	return all
}
