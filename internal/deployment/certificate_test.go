//go:build blueprints && linux

package deployment_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestCertificate: it is valid for the host and its names, by an authority that is kept, and renewed when that is wanted or due.
func TestCertificate(t *testing.T) {
	inTurn(t, func(t *testing.T, p *project) {
		secret := func(name string) string { return filepath.Join(p.folder, "secrets", name) }
		deploy := func(properties map[string]any) *x509.Certificate {
			p.template(t, nodes{"certificate": node("Certificate", properties)}, "certificate.ca_certificate", "certificate.expires")
			p.again(t)
			return certificateOf(t, secret("server.crt"))
		}
		first := deploy(map[string]any{"names": []string{"build.example.com"}, "country_name": "SI", "organization_name": "Example"})
		require.Equal(t, []string{"SI"}, first.Subject.Country)
		require.Equal(t, []string{"Example"}, first.Subject.Organization)
		require.Equal(t, "127.0.0.1", first.Subject.CommonName)
		for name, mode := range map[string]os.FileMode{"": 0o700, "ca.key": 0o600, "server.key": 0o600, "ca.crt": 0o644, "server.crt": 0o644} {
			info, err := os.Stat(secret(name))
			require.NoError(t, err)
			require.Equal(t, mode, info.Mode().Perm(), name)
		}
		requireValid(t, first, secret("ca.crt"), "build.example.com", "localhost", "127.0.0.1")
		require.Error(t, first.VerifyHostname("other.example.com"))
		out, err := exec.Command("openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", secret("ca.crt"), secret("server.crt")).CombinedOutput()
		require.NoError(t, err, "%s", out)
		outputs := p.outputs(t)
		require.Equal(t, secret("ca.crt"), outputs["certificate.ca_certificate"])
		require.Equal(t, first.NotAfter.UTC().Format(time.RFC3339), outputs["certificate.expires"])

		properties := map[string]any{"names": []string{"build.example.com"}, "country_name": "SI", "organization_name": "Example"}
		require.Equal(t, first.SerialNumber, deploy(properties).SerialNumber, "nothing has changed")
		properties["names"] = []string{"build.example.com", "10.9.8.7"}
		second := deploy(properties)
		require.NotEqual(t, first.SerialNumber, second.SerialNumber)
		requireValid(t, second, secret("ca.crt"), "10.9.8.7")
		requireValid(t, first, secret("ca.crt"), "localhost") // the authority is the same
		properties["rotation"] = "2"
		third := deploy(properties)
		require.NotEqual(t, second.SerialNumber, third.SerialNumber)
		require.NotEqual(t, second.PublicKey, third.PublicKey)

		// The same certificate, later: less than a third of its time is left.
		signer, key := keyOf(t, secret("ca.key")), keyOf(t, secret("server.key"))
		old := *third
		old.NotBefore, old.NotAfter = time.Now().AddDate(0, 0, -245), time.Now().AddDate(0, 0, 120)
		aged, err := x509.CreateCertificate(rand.Reader, &old, certificateOf(t, secret("ca.crt")), key.Public(), signer)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(secret("server.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: aged}), 0o600))
		renewed := deploy(properties)
		require.Greater(t, time.Until(renewed.NotAfter), 360*24*time.Hour)

		p.opera(t, "undeploy", "-f")
		require.FileExists(t, secret("ca.key"), "it is kept")
		properties["removal"] = "delete"
		require.Equal(t, renewed.SerialNumber, deploy(properties).SerialNumber)
		p.opera(t, "undeploy", "-f")
		require.NoDirExists(t, secret(""))
	})
}

// TestGivenCertificate: an authority that is given signs, and a certificate that is given is taken as it is.
func TestGivenCertificate(t *testing.T) {
	inTurn(t, func(t *testing.T, p *project) {
		secret := func(name string) string { return filepath.Join(p.folder, "secrets", name) }
		given := func(name string) string { return filepath.Join(p.folder, name) }
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		require.NoError(t, err)
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Example CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(9, 0, 0),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, SubjectKeyId: []byte{1, 2, 3},
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(given("our-ca.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
		encoded, err := x509.MarshalPKCS8PrivateKey(key)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(given("our-ca.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}), 0o600))

		p.template(t, nodes{"certificate": node("Certificate", map[string]any{"ca_cert": "our-ca.crt", "ca_key": "our-ca.key", "common_name": "build.example.com"})})
		p.opera(t, "deploy", "service.yaml")
		signed := certificateOf(t, secret("server.crt"))
		require.Equal(t, "Example CA", signed.Issuer.CommonName)
		require.Equal(t, "build.example.com", signed.Subject.CommonName)
		requireValid(t, signed, given("our-ca.crt"), "localhost")
		require.NoFileExists(t, secret("ca.key"), "the authority's key stays where it is")
		require.Zero(t, p.again(t))

		require.NoError(t, os.Rename(secret("server.crt"), given("bought.crt")))
		require.NoError(t, os.Rename(secret("server.key"), given("bought.key")))
		p.template(t, nodes{"certificate": node("Certificate", map[string]any{"cert": "bought.crt", "key": "bought.key", "ca_cert": "our-ca.crt"})})
		require.Equal(t, 1, p.again(t))
		require.Equal(t, signed.Raw, certificateOf(t, secret("server.crt")).Raw)
		require.Zero(t, p.again(t))

		p.template(t, nodes{"certificate": node("Certificate", map[string]any{"cert": "bought.crt", "key": "our-ca.key"})})
		requireSaid(t, p.operaFails(t, "deploy", "-c", "-f", "service.yaml"), "certificate: /key: our-ca.key is not the key of the certificate bought.crt")
		p.template(t, nodes{"certificate": node("Certificate", map[string]any{"ca_cert": "none.crt", "ca_key": "our-ca.key"})})
		requireSaid(t, p.operaFails(t, "deploy", "-c", "-f", "service.yaml"), "certificate: /ca_cert: No such file or directory: "+given("none.crt"))
	})
}

func certificateOf(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	block, _ := pem.Decode(data)
	require.NotNil(t, block, path)
	certificate, err := x509.ParseCertificate(block.Bytes)
	require.NoError(t, err)
	return certificate
}

func keyOf(t *testing.T, path string) crypto.Signer {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	block, _ := pem.Decode(data)
	require.NotNil(t, block, path)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	require.NoError(t, err)
	return key.(crypto.Signer)
}

// requireValid: a TLS client that trusts the authority takes the certificate for each of these names.
func requireValid(t *testing.T, certificate *x509.Certificate, authority string, names ...string) {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(certificateOf(t, authority))
	for _, name := range names {
		_, err := certificate.Verify(x509.VerifyOptions{Roots: roots, DNSName: name, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
		require.NoError(t, err, name)
	}
}
