package source_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/testbed"
)

// TestLFSFilesAreTheFile needs git-lfs (Debian has it in the package git-lfs), and so runs with -tags lfs.
func TestLFSFilesAreTheFile(t *testing.T) {
	t.Parallel()
	const password = "canary-Passw0rd"
	content := strings.Repeat("large\n", 1000)
	sum := sha256.Sum256([]byte(content))
	oid := hex.EncodeToString(sum[:])
	b := newBed(t, testbed.GitOptions{User: "ann", Password: password})
	git, err := url.Parse(b.server.URL)
	require.NoError(t, err)
	proxy := httputil.NewSingleHostReverseProxy(git)
	var site *site
	site = newSite(t, false, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/info/lfs/objects/batch"):
			if _, given, _ := r.BasicAuth(); given != password {
				w.Header().Set("LFS-Authenticate", `Basic realm="lfs"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			var asked struct {
				Objects []struct {
					OID  string `json:"oid"`
					Size int    `json:"size"`
				} `json:"objects"`
			}
			_ = json.NewDecoder(r.Body).Decode(&asked)
			w.Header().Set("Content-Type", "application/vnd.git-lfs+json")
			var objects []string
			for _, o := range asked.Objects {
				objects = append(objects, fmt.Sprintf(`{"oid":%q,"size":%d,"authenticated":true,"actions":{"download":{"href":%q}}}`, o.OID, o.Size, site.URL+"/objects/"+o.OID))
			}
			fmt.Fprintf(w, `{"transfer":"basic","objects":[%s]}`, strings.Join(objects, ","))
		case r.URL.Path == "/objects/"+oid:
			_, _ = w.Write([]byte(content))
		case strings.HasPrefix(r.URL.Path, "/objects/"):
			http.NotFound(w, r)
		default:
			r.Host = git.Host
			proxy.ServeHTTP(w, r)
		}
	})
	pointer := func(oid string, size int) string {
		return fmt.Sprintf("version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n", oid, size)
	}
	files := app()
	files[".gitattributes"] = file("*.bin filter=lfs diff=lfs merge=lfs -text\n")
	files["src/model.bin"] = file(pointer(oid, len(content)))
	files["docker/gone.bin"] = file(pointer(strings.Repeat("ab", 32), 3))
	b.init("app.git", files)
	src := buildparams.Source{GitRepo: &buildparams.GitRepo{URL: site.URL + "/app.git", Username: "ann", Workdir: "src"}}
	tree := b.fetch(src, credentials(password))
	require.Equal(t, content, read(t, tree.Context, "model.bin"))
	require.Equal(t, "deep\n", read(t, tree.Context, "deep/er/a.txt"))
	requireNowhere(t, password, b.dir, b.fetcher.CacheDir)
	src.GitRepo.Workdir = "docker"
	f := b.fails(fault.Unavailable, src, credentials(password))
	require.Contains(t, f.Message, "gone.bin")
}
