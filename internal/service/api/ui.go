package api

import (
	"bytes"
	"compress/gzip"
	"embed"
	"io"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
)

// Swagger UI is swagger-ui-dist 5.35.0 as its package has it, without the references to source maps; index.html and start.js are ours.
//
//go:embed ui
var uiFiles embed.FS

// uiPolicy lets the page do what it needs: its own files, and images inside its style sheet.
const uiPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// uiFile is a file as it is sent.
type uiFile struct {
	mediaType string
	plain     []byte
	packed    func() []byte // by gzip; most of a megabyte less to send
}

// userInterface serves Swagger UI under /ui/.
func userInterface() http.Handler {
	files := map[string]uiFile{}
	entries, err := uiFiles.ReadDir("ui")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	for _, entry := range entries {
		data, err := uiFiles.ReadFile("ui/" + entry.Name())
		if err != nil {
			panic(err)
		}
		files[entry.Name()] = uiFile{mediaType: mime.TypeByExtension(path.Ext(entry.Name())), plain: data, packed: sync.OnceValue(func() []byte { return pack(data) })}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/ui/")
		if name == "" {
			name = "index.html"
		}
		file, found := files[name]
		if !found {
			http.NotFound(w, r)
			return
		}
		header := w.Header()
		header.Set("Content-Security-Policy", uiPolicy)
		header.Set("Content-Type", file.mediaType)
		header.Set("Cache-Control", "public, max-age=3600") // as long as it may show an older version of itself after an upgrade
		header.Set("Vary", "Accept-Encoding")
		data := file.plain
		if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			data = file.packed()
			header.Set("Content-Encoding", "gzip")
		}
		header.Set("Content-Length", strconv.Itoa(len(data)))
		if r.Method != http.MethodHead {
			_, _ = w.Write(data)
		}
	})
}

func pack(data []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, _ = io.Copy(z, bytes.NewReader(data)) // into memory
	_ = z.Close()
	return out.Bytes()
}
