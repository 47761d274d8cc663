package store

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// The columns that an Invocation is read from, in the order of scan. What List leaves out comes last.
const (
	summaryColumns = `id, state, reason, subject, group_name, attempt, priority, timeout_ms, queue_ttl_ms, submitted_at, started_at, ended_at,
 labels, images, response, failure, retry_of, trace_parent, cancel_requested, log_bytes, log_cut, webhook_url, webhook_secret, has_secrets,
 sealed is not null, idempotency_key`
	columns = summaryColumns + ", build_params, result"
)

// scan reads the columns, and what comes after them into more.
func scan(r row, v *Invocation, whole bool, more ...any) error {
	var timeout, ttl, submitted, started, ended int64
	var labels, images, failure, params, result, state, reason, url string
	var secret []byte
	into := []any{
		&v.ID, &state, &reason, &v.Subject, &v.Group, &v.Attempt, &v.Priority, &timeout, &ttl, &submitted, &started, &ended,
		&labels, &images, &v.Response, &failure, &v.RetryOf, &v.TraceParent, &v.CancelRequested, &v.LogBytes, &v.LogCut, &url, &secret, &v.HasSecrets,
		&v.Sealed, &v.IdempotencyKey,
	}
	if whole {
		into = append(into, &params, &result)
	}
	if err := r.Scan(append(into, more...)...); err != nil {
		return err
	}
	v.State, v.Reason = State(state), Reason(reason)
	v.Timeout, v.QueueTTL = time.Duration(timeout)*time.Millisecond, time.Duration(ttl)*time.Millisecond
	v.SubmittedAt, v.StartedAt, v.EndedAt = timeOf(submitted), timeOf(started), timeOf(ended)
	v.Failure, v.BuildParams, v.Result = raw(failure), raw(params), raw(result)
	if url != "" {
		v.Webhook = &Webhook{URL: url, Secret: secret}
	}
	if labels != "" {
		if err := json.Unmarshal([]byte(labels), &v.Labels); err != nil {
			return fmt.Errorf("read the labels of invocation %s: %w", v.ID, err)
		}
	}
	if images != "" {
		if err := json.Unmarshal([]byte(images), &v.Images); err != nil {
			return fmt.Errorf("read the images of invocation %s: %w", v.ID, err)
		}
	}
	return nil
}

// raw is JSON from a column, nil when there is none.
func raw(text string) json.RawMessage {
	if text == "" {
		return nil
	}
	return json.RawMessage(text)
}

// timeOf is the time of a column, in UTC; 0 is the zero time.
func timeOf(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// written is JSON for a column: "" for what is empty.
func written[V any](v V, empty bool) (string, error) {
	if empty {
		return "", nil
	}
	data, err := json.Marshal(v)
	return string(data), err
}

// wellFormed tells whether an id can be one of ours: what strangers ask for is not sent to the database otherwise.
func wellFormed(id string) bool {
	const canonical = 36 // xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx; uuid takes other forms too, which we never give out
	parsed, err := uuid.Parse(id)
	return err == nil && len(id) == canonical && parsed.String() == id
}
