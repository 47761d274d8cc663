package api_test

import (
	"encoding/json"
	"io/fs"
	"net/http"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/require"

	"imagebuilder/schemas"
)

func TestDocument(t *testing.T) {
	t.Parallel()
	s := start(t)
	answer := s.want(http.StatusOK, "", "GET", "/openapi.json", "")
	loader := openapi3.NewLoader()
	doc, err := loader.LoadFromData([]byte(answer.body))
	require.NoError(t, err)
	require.NoError(t, doc.Validate(loader.Context)) // examples too
	require.NotContains(t, answer.body, "#/definitions/")
	require.NotContains(t, answer.body, `"examples":[`)

	// The schema of documents says the same as the JSON Schema that builds go by.
	params := doc.Components.Schemas["BuildParams"].Value
	checked := 0
	require.NoError(t, fs.WalkDir(schemas.Examples(), "json", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := fs.ReadFile(schemas.Examples(), path)
		require.NoError(t, err)
		var value any
		require.NoError(t, json.Unmarshal(data, &value))
		require.NoError(t, params.VisitJSON(value), path)
		checked++
		return nil
	}))
	require.NotZero(t, checked)
	for _, bad := range []string{`{}`, `{"source":{},"target":{}}`, strings.Replace(document("a"), `"tag"`, `"tags"`, 1), strings.Replace(document("a"), `"v1"`, `1`, 1)} {
		var value any
		require.NoError(t, json.Unmarshal([]byte(bad), &value))
		require.Error(t, params.VisitJSON(value), bad)
	}

	// Every operation says what it answers to those who are not let in, ask too often, or find a defect.
	for path, item := range doc.Paths.Map() {
		for method, operation := range item.Operations() {
			if operation.Security != nil {
				continue
			}
			for _, status := range []string{"401", "429", "500", "503"} {
				require.NotNil(t, operation.Responses.Value(status), "%s %s: %s", method, path, status)
			}
		}
	}
}
