package admission

import (
	"io/fs"
	"net"
	"net/netip"
	neturl "net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/buildparams"
	"imagebuilder/schemas"
)

const plain = `{"source":{"git_repo":{"url":"https://git.example.com/a.git"}},"target":{"registry":{"url":"registry.example.com"},"images":[{"image":"shop/web","tag":"v1"}]}}`

const secretive = `
source: {git_repo: {url: "https://git.example.com/a.git", username: u, password: canary-git}}
target: {registry: {url: registry.example.com, username: u, password: canary-registry}, images: [{image: shop/web, tag: v1, build_args: {NPM_TOKEN: canary-argument}}]}
options: {secrets: {a/b: canary-secret}, timeout: 30m}
`

var few = Limits{Bytes: 1 << 20, Images: 64}

// FuzzSubmit looks for documents that crash the service, that it refuses without saying what is wrong, or that it takes although
// they name something of the machine that builds. It is here and not in package builds because a fuzz target with a database in its
// executable is much slower.
func FuzzSubmit(f *testing.F) {
	examples := schemas.Examples()
	require.NoError(f, fs.WalkDir(examples, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || strings.HasPrefix(name, "sample-repo/") {
			return err
		}
		data, err := fs.ReadFile(examples, name)
		f.Add(data)
		return err
	}))
	for _, s := range []string{
		plain, secretive, strings.ReplaceAll(plain, "https://", "file:///"), strings.ReplaceAll(plain, "https://", "ssh://git@"), strings.ReplaceAll(plain, "git.example.com", "127.0.0.1"),
		strings.ReplaceAll(secretive, "canary-secret", "env:HOME"), strings.ReplaceAll(secretive, "canary-git", "file:/etc/passwd"), strings.ReplaceAll(plain, "registry.example.com", "http://r.example.com"),
		`{"source":{"dockerfile":{"url":"https://h.example.com/D"},"build_context":{"path":"/etc"}},"target":{"registry":{"url":"localhost:5000","insecure":true,"ca_cert":"file:x"},"images":[{"image":"a","tag":"b"}]}}`,
		"a: &x [*x]", "{", "\xff", "", "null", "[]",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		taken, problems, err := Policy{}.Read(data, "/at", few)
		require.NoError(t, err)
		if taken == nil {
			require.NotEmpty(t, problems)
			for _, p := range problems {
				require.True(t, p.Pointer == "" || strings.HasPrefix(p.Pointer, "/at"), "%v", p)
			}
			return
		}
		require.Empty(t, problems)
		doc, err := buildparams.Decode(taken.Clear, "")
		require.NoError(t, err)
		require.Equal(t, taken.Parsed, doc)
		require.Equal(t, buildparams.Local{}, doc.Local("/"), "nothing of the machine")
		to := doc.Target.Registry
		require.False(t, to.Insecure || to.PlainHTTP())
		urls := []string{}
		if g := doc.Source.GitRepo; g != nil {
			urls = append(urls, g.URL)
		}
		if d := doc.Source.Dockerfile; d != nil {
			urls = append(urls, d.URL)
		}
		if c := doc.Source.BuildContext; c != nil {
			require.Empty(t, c.Path)
			urls = append(urls, c.URL)
		}
		for _, url := range urls {
			require.Regexp(t, `(?i)^https?://`, url)
			u, err := neturl.Parse(url)
			require.NoError(t, err)
			requirePublic(t, u.Hostname())
		}
		host, _, err := net.SplitHostPort(to.Host())
		if err != nil {
			host = to.Host()
		}
		requirePublic(t, host)
		masked, err := buildparams.Mask(taken.Masked)
		require.NoError(t, err)
		require.Equal(t, string(masked), string(taken.Masked), "what is kept in clear is masked")
	})
}

// requirePublic demands a host that is no address of this machine or of a private network, as Go's dialer would read it.
func requirePublic(t *testing.T, host string) {
	t.Helper()
	require.NotEqual(t, "localhost", strings.ToLower(host))
	if addr, err := netip.ParseAddr(host); err == nil {
		addr = addr.Unmap()
		require.False(t, addr.IsLoopback() || addr.IsPrivate() || addr.IsLinkLocalUnicast() || addr.IsUnspecified() || addr.IsMulticast(), "%s", host)
	}
}
