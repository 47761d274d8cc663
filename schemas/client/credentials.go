package client

import (
	"context"
	"net/http"
)

// APIKey authenticates requests by an API key.
func APIKey(key string) RequestEditorFn {
	return func(_ context.Context, r *http.Request) error {
		r.Header.Set("X-API-Key", key)
		return nil
	}
}

// Token authenticates requests by an access token of the service's OpenID provider.
func Token(token string) RequestEditorFn {
	return func(_ context.Context, r *http.Request) error {
		r.Header.Set("Authorization", "Bearer "+token)
		return nil
	}
}

// EventStream asks GetLog for an event stream, which Events reads.
func EventStream() RequestEditorFn {
	return func(_ context.Context, r *http.Request) error {
		r.Header.Set("Accept", "text/event-stream")
		return nil
	}
}
