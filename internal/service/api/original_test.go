package api_test

import (
	"encoding/json"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/service/api"
	"imagebuilder/internal/service/store"
)

// golden replaces what differs from run to run.
func golden(t *testing.T, body, id string) string {
	t.Helper()
	var value map[string]any
	require.NoError(t, json.Unmarshal([]byte(body), &value))
	for key, v := range value {
		if strings.HasPrefix(key, "timestamp_") {
			// What Python before 3.11 reads.
			_, err := time.Parse("2006-01-02T15:04:05.000000+00:00", v.(string))
			require.NoError(t, err)
			value[key] = "TIME"
		}
	}
	out, err := json.MarshalIndent(value, "", "  ")
	require.NoError(t, err)
	return strings.ReplaceAll(string(out), id, "ID")
}

const masked = `"build_params": {
    "source": {
      "git_repo": {
        "url": "https://git.example.com/shop/web.git"
      }
    },
    "target": {
      "images": [
        {
          "image": "shop/web",
          "tag": "v1"
        }
      ],
      "registry": {
        "password": "****",
        "url": "registry.example.com",
        "username": "robot"
      }
    }
  },
  "invocation_id": "ID",
  `

func TestOriginalRoutes(t *testing.T) {
	t.Parallel()
	s := start(t)
	request := func() string {
		answer := s.want(http.StatusAccepted, "alice", "POST", "/build/", document("shop/web"))
		require.Equal(t, "application/json", answer.Header.Get("Content-Type"))
		started := into[map[string]string](t, answer)
		require.Len(t, started, 1)
		require.NoError(t, uuid.Validate(started["invocation_id"]))
		return started["invocation_id"]
	}
	status := func(id string) string {
		answer := s.want(http.StatusOK, "alice", "GET", "/status/"+id, "")
		require.Equal(t, "application/json", answer.Header.Get("Content-Type"))
		return golden(t, answer.body, id)
	}

	id := request()
	require.Equal(t, `{
  `+masked+`"state": "pending",
  "timestamp_submission": "TIME"
}`, status(id))
	lease := s.claim()
	require.Equal(t, `{
  `+masked+`"state": "in_progress",
  "timestamp_start": "TIME",
  "timestamp_submission": "TIME"
}`, status(id))
	s.finish(lease, store.Outcome{
		State:  store.StateSuccess,
		Result: json.RawMessage(`{"images":[{"ref":"registry.example.com/shop/web:v1","digest":"sha256:1","times":{}}],"source":{},"engine":"managed","times":{}}`),
	})
	require.Equal(t, `{
  `+masked+`"response": "pushed registry.example.com/shop/web:v1 sha256:1",
  "state": "success",
  "timestamp_end": "TIME",
  "timestamp_start": "TIME",
  "timestamp_submission": "TIME"
}`, status(id))

	id = request()
	s.finish(s.claim(), store.Outcome{State: store.StateFailed, Reason: store.ReasonBuildFailed, Response: "RUN make: exit code 2"})
	require.Equal(t, `{
  `+masked+`"response": "RUN make: exit code 2",
  "state": "failed",
  "timestamp_end": "TIME",
  "timestamp_start": "TIME",
  "timestamp_submission": "TIME"
}`, status(id))

	// A state that the original does not have would keep its clients waiting for ever.
	id = request()
	s.want(http.StatusAccepted, "alice", "POST", "/v1/invocations/"+id+"/cancel", "")
	cancelled := into[map[string]any](t, s.want(http.StatusOK, "alice", "GET", "/status/"+id, ""))
	require.Equal(t, "failed", cancelled["state"])
	require.Contains(t, cancelled["response"], "cancelled")
}

func TestOriginalErrors(t *testing.T) {
	t.Parallel()
	s := start(t)
	missing := uuid.NewString()
	two := strings.Replace(document("a"), `"git_repo"`, `"dockerfile":{"url":"https://a.example/Dockerfile"},"git_repo"`, 1)
	tests := []struct {
		name               string
		caller, verb, path string
		body               string
		status             int
		mediaType          string
		answer             string // of a JSON string, or the detail of a problem
	}{
		{"no such build", "alice", "GET", "/status/" + missing, "", 404, "application/json", "Invocation with ID " + missing + " not found"},
		{"no id at all", "alice", "GET", "/status/42", "", 404, "application/json", "Invocation with ID 42 not found"},
		{"an id in braces", "alice", "GET", "/status/%7B" + missing + "%7D", "", 404, "application/json", "Invocation with ID {" + missing + "} not found"},
		{"two sources", "alice", "POST", "/build/", two, 400, "application/json",
			"/source: has both git_repo and dockerfile (keep one of the two; a git_repo brings its own Dockerfile)"},
		{"against the schema", "alice", "POST", "/build/", `{"source":{"git_repo":{}}}`, 400, "application/problem+json", "check the request: 2 problems"},
		{"no JSON", "alice", "POST", "/build/", `{`, 400, "application/problem+json", "check the request"},
		{"YAML", "alice", "POST", "/build/", "source: {}", 400, "application/problem+json", "check the request"},
		{"a local repository", "alice", "POST", "/build/", strings.Replace(document("a"), "https://git.example.com", "file:///srv", 1), 400, "application/problem+json", "check the request: 1 problem"},
		{"no credentials", "", "POST", "/build/", document("a"), 401, "application/problem+json", "the request carries no credentials"},
		{"no credentials", "", "GET", "/status/" + missing, "", 401, "application/problem+json", "the request carries no credentials"},
		{"may not submit", "reader", "POST", "/build/", document("a"), 403, "application/problem+json", "submit a build: the credentials do not allow it"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			answer := s.want(test.status, test.caller, test.verb, test.path, test.body)
			require.Equal(t, test.mediaType, answer.Header.Get("Content-Type"))
			if test.mediaType == "application/json" {
				require.Equal(t, test.answer, into[string](t, answer))
				return
			}
			problem := into[map[string]any](t, answer)
			for _, key := range []string{"title", "status", "detail", "type"} { // all that connexion sends
				require.Contains(t, problem, key)
			}
			require.Equal(t, http.StatusText(test.status), problem["title"])
			require.EqualValues(t, test.status, problem["status"])
			require.Equal(t, "about:blank", problem["type"])
			require.Equal(t, test.answer, problem["detail"])
		})
	}

	problem := into[api.Problem](t, s.want(400, "alice", "POST", "/build/", `{"source":{"git_repo":{}}}`))
	require.Equal(t, []string{"/source/git_repo/url", "/target"}, []string{problem.Errors[0].Pointer, problem.Errors[1].Pointer})

	// Somebody else's build is as absent as one that never was.
	id := into[api.BuildingStarted](t, s.want(202, "alice", "POST", "/build/", document("a"))).InvocationID
	answer := s.want(404, "bob", "GET", "/status/"+id, "")
	require.Equal(t, "Invocation with ID "+id+" not found", into[string](t, answer))
	s.want(200, "admin", "GET", "/status/"+id, "")
}

func TestOriginalAddresses(t *testing.T) {
	t.Parallel()
	s := start(t)
	answer := s.want(http.StatusTemporaryRedirect, "alice", "POST", "/build", document("a"))
	require.Equal(t, "/build/", answer.Header.Get("Location"))
	s.want(http.StatusNotFound, "alice", "POST", "/build/more", document("a"))
	answer = s.want(http.StatusMethodNotAllowed, "alice", "PUT", "/build/", document("a"))
	require.Equal(t, "POST", answer.Header.Get("Allow"))
	// The original's own client is started with a URL that ends in a slash.
	s.want(http.StatusAccepted, "alice", "POST", "//build/", document("a"))
	s.want(http.StatusUnsupportedMediaType, "alice", "POST", "/build/", "source: {}", "Content-Type", "application/yaml")
	s.want(http.StatusUnsupportedMediaType, "alice", "POST", "/build/", document("a"), "Content-Type", "application/x-www-form-urlencoded")
	s.want(http.StatusAccepted, "alice", "POST", "/build/", document("a"), "Content-Type", "application/json; charset=utf-8")
}

// A client in the style of the original's, which knows its two routes and its states, works as it is.
func TestOriginalClient(t *testing.T) {
	t.Parallel()
	python, err := exec.LookPath("python3")
	require.NoError(t, err, "Debian's package python3 has it")
	for _, outcome := range []store.Outcome{
		{State: store.StateSuccess},
		{State: store.StateFailed, Reason: store.ReasonBuildFailed, Response: "RUN make: exit code 2"},
	} {
		t.Run(string(outcome.State), func(t *testing.T) {
			t.Parallel()
			s := start(t)
			command := exec.Command(python, "testdata/original_client.py", s.url+"/")
			command.Env = append(command.Environ(), "API_KEY="+s.keys["alice"])
			command.Stdin = strings.NewReader(document("shop/web"))
			output := &strings.Builder{}
			command.Stdout, command.Stderr = output, output
			require.NoError(t, command.Start())
			var lease *store.Lease
			require.Eventually(t, func() bool {
				lease, err = s.store.Claim(t.Context(), "test", time.Minute, 0)
				return err == nil && lease != nil
			}, 20*time.Second, 20*time.Millisecond)
			s.finish(lease, outcome)
			require.NoError(t, command.Wait(), output.String())
			require.Contains(t, output.String(), "invocation_id="+lease.Invocation.ID)
			require.Contains(t, output.String(), `"state": "`+string(outcome.State)+`"`)
			if outcome.Response != "" {
				require.Contains(t, output.String(), outcome.Response)
			} else {
				require.Contains(t, output.String(), "pushed registry.example.com/shop/web:v1")
			}
			require.NotContains(t, output.String(), "swordfish")
		})
	}
}
