package api_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/service/store"
	"imagebuilder/schemas/client"
)

// The generated client does what people do with it: submit, follow, read what came of it.
func TestClient(t *testing.T) {
	t.Parallel()
	s := start(t)
	c, err := client.NewClientWithResponses(s.url, client.WithRequestEditorFn(client.APIKey(s.keys["alice"])))
	require.NoError(t, err)

	key := "once"
	accepted, err := c.SubmitInvocationWithResponse(t.Context(), &client.SubmitInvocationParams{IdempotencyKey: &key},
		client.SubmitRequest{BuildParams: []byte(document("shop/web")), Labels: client.Labels{"team": "shop"}, Priority: 3})
	require.NoError(t, err)
	require.NotNil(t, accepted.JSON202, "%s", accepted.Body)
	id := accepted.JSON202.ID

	log, err := c.GetLog(t.Context(), id, &client.GetLogParams{}, client.EventStream())
	require.NoError(t, err)
	defer log.Body.Close()
	lease := s.claim()
	s.log(lease, store.LogStep, "1", `{"id":"1","name":"RUN make","started":"2026-01-01T00:00:00Z"}`)
	s.log(lease, store.LogOut, "1", "hello\n")
	s.log(lease, store.LogNote, "", `{"level":"info","text":"done"}`)
	s.finish(lease, store.Outcome{State: store.StateFailed, Reason: store.ReasonBuildFailed, Response: "RUN make: exit code 2"})
	var output, step, note string
	var last int64
	var end *client.LogState
	for e, err := range client.Events(log.Body) {
		require.NoError(t, err)
		last = max(last, e.ID)
		switch {
		case e.Log != nil:
			output += e.Log.Data
		case e.Step != nil:
			step = e.Step.Name
		case e.Note != nil:
			note = e.Note.Text
		case e.End != nil:
			end = e.End
		}
	}
	require.Equal(t, []string{"RUN make", "hello\n", "done"}, []string{step, output, note})
	require.Equal(t, &client.LogState{State: client.BuildStateFailed, Reason: client.ReasonBuildFailed}, end)
	require.EqualValues(t, 3, last)

	build, err := c.GetInvocationWithResponse(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, "RUN make: exit code 2", build.JSON200.Failure.Message)
	require.Equal(t, client.Labels{"team": "shop"}, build.JSON200.Labels)

	state, label := []client.BuildState{client.BuildStateFailed}, []string{"team:shop"}
	list, err := c.ListInvocationsWithResponse(t.Context(), &client.ListInvocationsParams{State: &state, Label: &label})
	require.NoError(t, err)
	require.Len(t, list.JSON200.Invocations, 1)

	retry, err := c.RetryInvocationWithResponse(t.Context(), id, client.RetryInvocationJSONRequestBody{})
	require.NoError(t, err)
	require.Equal(t, "/secrets/~1target~1registry~1password", retry.ApplicationProblemJSON409.Errors[0].Pointer)

	started, err := c.PostBuildWithResponse(t.Context(), []byte(document("shop/web")))
	require.NoError(t, err)
	status, err := c.GetStatusWithResponse(t.Context(), started.JSON202.InvocationID)
	require.NoError(t, err)
	require.Equal(t, client.InvocationStatePending, status.JSON200.State)
	require.False(t, status.JSON200.TimestampSubmission.IsZero())

	nobody, err := client.NewClientWithResponses(s.url, client.WithRequestEditorFn(client.Token("none")))
	require.NoError(t, err)
	refused, err := nobody.WhoamiWithResponse(t.Context())
	require.NoError(t, err)
	require.Equal(t, 401, refused.ApplicationProblemJSON401.Status)
}
