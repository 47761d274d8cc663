package api_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/service/api"
	"imagebuilder/internal/service/auth"
	"imagebuilder/internal/service/builds"
	"imagebuilder/internal/service/seal"
	"imagebuilder/internal/service/store"
	"imagebuilder/schemas/client"
)

// document is a build_params document with one image.
func document(image string) string {
	return fmt.Sprintf(`{"source":{"git_repo":{"url":"https://git.example.com/shop/web.git"}},
		"target":{"registry":{"url":"registry.example.com","username":"robot","password":"swordfish"},"images":[{"image":%q,"tag":"v1"}]}}`, image)
}

// build is what submit submits.
func build(image string) string { return `{"build_params":` + document(image) + `}` }

// everybody lets all in.
type everybody struct{}

func (everybody) Authenticate(*http.Request) (auth.Principal, error) {
	return auth.Principal{Subject: "key:fuzz", Scopes: []string{auth.ScopeSubmit}}, nil
}
func (everybody) Challenge(error) []string { return nil }

// empty is a store that takes everything and keeps nothing, so that a fuzzer's requests are as fast as their handling.
type empty struct{ builds.Store }

func (empty) Submit(_ context.Context, s store.Submission) (store.Invocation, bool, error) {
	return store.Invocation{ID: s.ID, Subject: s.Subject, State: store.StatePending, Attempt: 1, BuildParams: s.BuildParams, Images: s.Images}, true, nil
}
func (empty) Get(context.Context, string) (store.Invocation, error) {
	return store.Invocation{}, store.ErrNotFound
}
func (empty) List(context.Context, store.Filter) ([]store.Invocation, store.Cursor, error) {
	return nil, "", nil
}

// FuzzRequests sends what strangers may send: no answer is a defect, and no problem shows what may be a secret.
func FuzzRequests(f *testing.F) {
	handler := func() http.Handler {
		_, recipient, err := seal.GenerateKey()
		require.NoError(f, err)
		sealer, err := seal.NewSealer(recipient)
		require.NoError(f, err)
		h, err := api.New(api.Config{
			Builds: builds.New(builds.Config{Store: empty{}, Sealer: sealer}), Auth: everybody{}, Limits: api.Limits{PerCaller: -1},
		})
		require.NoError(f, err)
		return h
	}()
	f.Add("POST", "/build/", "", document("a"))
	f.Add("POST", "/v1/invocations", "", build("a"))
	f.Add("POST", "/v1/invocations", "", `{"build_params":"a: b","labels":{"a":"b"},"timeout":"1h","priority":1,"webhook":{"url":"https://a.example"}}`)
	f.Add("POST", "/v1/plan", "", build("a"))
	f.Add("POST", "/v1/invocations/x/retry", "", `{"secrets":{"/a~1b":"c"}}`)
	f.Add("GET", "/v1/invocations", "state=failed&label=a:b&since=2020-01-01T00:00:00Z&limit=3&page_token=x", "")
	f.Add("GET", "/v1/invocations/x/log", "after=1&step=2&follow=true", "")
	f.Add("GET", "//status/{x}", "", "")
	f.Fuzz(func(t *testing.T, method, path, query, body string) {
		r, err := http.NewRequest(method, "http://localhost/", strings.NewReader(body))
		if err != nil {
			return // no request
		}
		r.URL.Path, r.URL.RawQuery = path, query
		r.RemoteAddr = "192.0.2.1:1"
		r.Header = http.Header{"Content-Type": {"application/json"}, "Idempotency-Key": {path}, "Last-Event-Id": {query}, "X-Request-Id": {path}, "Accept": {query}}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code >= 500 {
			// The store above cannot do all, and says so: that is Unavailable at most.
			require.Equal(t, http.StatusServiceUnavailable, w.Code, "%s %s?%s\n%s\n%s", method, path, query, body, w.Body)
		}
		if strings.Contains(body, "swordfish") {
			require.NotContains(t, w.Body.String(), "swordfish")
		}
	})
}

func FuzzClientEvents(f *testing.F) {
	f.Add([]byte("retry: 1\n\n:\n\nid: 1\nevent: log\ndata: {\"data\":\"x\",\"step\":\"1\"}\n\nevent: end\ndata: {\"state\":\"success\"}\n\n"))
	f.Add([]byte("event: log\ndata: {\n\n"))
	f.Add([]byte("data\nid\nevent\n\n\n"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		for e, err := range client.Events(bytes.NewReader(stream)) {
			if err != nil {
				require.NotEmpty(t, err.Error())
				continue
			}
			set := 0
			for _, is := range []bool{e.Log != nil, e.Step != nil, e.Note != nil, e.State != nil, e.End != nil} {
				if is {
					set++
				}
			}
			require.Equal(t, 1, set)
		}
	})
}
