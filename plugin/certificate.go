package plugin

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// Host and plugin know each other by certificates that each makes for one run, as in go-plugin's AutoMTLS. That one has its
// keys on P-521, whose arithmetic in Go costs a start some 25 ms; P-256 costs one.
const (
	// hostCertEnv is where go-plugin hands a plugin its host's certificate, as PEM.
	hostCertEnv = "PLUGIN_CLIENT_CERT"
	// pluginCertFile is where the plugin puts its own, in its run folder, which nobody else can write to.
	pluginCertFile = "certificate.pem"
	// certName is the name that go-plugin asks for on both sides.
	certName = "localhost"
	// certTime covers the longest run and clocks that are set meanwhile: the keys are gone with their processes.
	certTime = 10 * 365 * 24 * time.Hour
)

// newCertificate makes a key and its certificate, and the latter also as PEM.
func newCertificate() (tls.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: certName}, DNSNames: []string{certName}, SerialNumber: big.NewInt(1),
		NotBefore: time.Now().Add(-certTime), NotAfter: time.Now().Add(certTime),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// hostTLS is the host's side of the connection, and what the plugin needs to know of it. Until trustPlugin has been called it
// trusts nobody.
func hostTLS() (config *tls.Config, env string, err error) {
	own, text, err := newCertificate()
	if err != nil {
		return nil, "", err
	}
	return &tls.Config{
		Certificates: []tls.Certificate{own}, RootCAs: x509.NewCertPool(),
		ServerName: certName, MinVersion: tls.VersionTLS13,
	}, hostCertEnv + "=" + string(text), nil
}

// trustPlugin has the host trust the certificate in the run folder. Where there is none, the plugin has said its certificate
// in go-plugin's handshake, as plugins do that are not served by this package, and is trusted for that.
func trustPlugin(config *tls.Config, folder string) error {
	text, err := os.ReadFile(filepath.Join(folder, pluginCertFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && !config.RootCAs.AppendCertsFromPEM(text) {
		err = errors.New("the plugin's certificate is none")
	}
	return err
}

// pluginTLS is the plugin's side of the connection; it is nil, and go-plugin makes one, when the host has no run folder for us.
func pluginTLS() (*tls.Config, error) {
	folder, host := os.Getenv(RunFolderEnv), os.Getenv(hostCertEnv)
	if folder == "" || host == "" {
		return nil, nil
	}
	hosts := x509.NewCertPool()
	if !hosts.AppendCertsFromPEM([]byte(host)) {
		return nil, errors.New("the host's certificate is none")
	}
	own, text, err := newCertificate()
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(folder, pluginCertFile), text, 0o600); err != nil {
		return nil, err
	}
	return &tls.Config{
		Certificates: []tls.Certificate{own}, ClientCAs: hosts, ClientAuth: tls.RequireAndVerifyClientCert,
		RootCAs: hosts, ServerName: certName, MinVersion: tls.VersionTLS13,
	}, nil
}
