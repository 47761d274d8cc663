package buildparams_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/buildparams"
)

func TestLocal(t *testing.T) {
	t.Parallel()
	const target = `"target":{"registry":{"url":"registry.example.com"},"images":[{"image":"a","tag":"1"}]}`
	for name, test := range map[string]struct {
		document string
		want     buildparams.Local
	}{
		"nothing":             {`{"source":{"git_repo":{"url":"https://git.example.com/a.git","username":"a","password":"literal"}},` + target + `}`, buildparams.Local{}},
		"a repository":        {`{"source":{"git_repo":{"url":"file:///srv/a%20b.git"}},` + target + `}`, buildparams.Local{Paths: []string{"/srv/a b.git"}}},
		"another machine's":   {`{"source":{"git_repo":{"url":"git@git.example.com:a.git"}},` + target + `}`, buildparams.Local{}},
		"a Dockerfile":        {`{"source":{"dockerfile":{"url":"file://localhost/srv/x/../Dockerfile"}},` + target + `}`, buildparams.Local{Paths: []string{"/srv/Dockerfile"}}},
		"a context":           {`{"source":{"dockerfile":{"url":"file:///d"},"build_context":{"path":"../app"}},` + target + `}`, buildparams.Local{Paths: []string{"/d", "/documents/app"}}},
		"a context from disk": {`{"source":{"dockerfile":{"url":"https://a.example.com/d"},"build_context":{"url":"file:///srv/c.git"}},` + target + `}`, buildparams.Local{Paths: []string{"/srv/c.git"}}},
		"secrets": {`{"source":{"git_repo":{"url":"https://git.example.com/a.git","username":"a","password":"env:GIT_TOKEN"}},
			"target":{"registry":{"url":"registry.example.com","username":"b","password":"file:token","ca_cert":"file:/etc/ca.pem"},"images":[{"image":"a","tag":"1"}]},
			"options":{"secrets":{"a":"env:GIT_TOKEN","b":"env:API_KEY","c":"literal","d":"file:token"}}}`,
			buildparams.Local{Paths: []string{"/documents/in/token", "/etc/ca.pem"}, Environment: []string{"API_KEY", "GIT_TOKEN"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			doc, err := buildparams.Decode([]byte(test.document), "")
			require.NoError(t, err)
			require.Equal(t, test.want, doc.Local("/documents/in"))
		})
	}
}
