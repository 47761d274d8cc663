package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

const (
	// lines is how many numbered lines each build writes, so that a gap in its log shows.
	lines = 200
	// failEvery is which builds are meant to fail.
	failEvery = 7
	// clientPause is the pause of a client whose request was not answered.
	clientPause = 200 * time.Millisecond
)

// dockerfile writes numbered lines, and fails where it is told to.
const dockerfile = `FROM %s/base/busybox:1
ARG N FAIL
RUN i=0; while [ $i -lt %d ]; do i=$((i+1)); echo "build $N line $i"; [ $((i %% 50)) != 0 ] || sleep 0.05; done; echo "$N" >/name; [ "$FAIL" != yes ]
`

// order is one build that was accepted.
type order struct {
	number int
	id     string
}

func (o order) fails() bool       { return o.number%failEvery == 3 }
func (o order) tag() string       { return fmt.Sprintf("n%d", o.number) }
func (o order) line(n int) string { return fmt.Sprintf("build %d line %d", o.number, n) }
func failing(number int) (s string) {
	return map[bool]string{true: "yes", false: "no"}[order{number: number}.fails()]
}

// submitAll has clients submit builds until all are accepted, whatever happens to the service meanwhile.
func (f *fleet) submitAll(t *testing.T, count, clients int) []order {
	t.Helper()
	_, err := testbed.PushBases(t.Context(), f.site.Registry.Host, testbed.BaseOptions{Platforms: []string{"linux/amd64"}})
	require.NoError(t, err)
	url, _ := f.site.Repository(t, "app.git", fstest.MapFS{
		"Dockerfile": {Data: fmt.Appendf(nil, dockerfile, f.site.Registry.Host, lines)}})
	numbers := make(chan int, count)
	for n := range count {
		numbers <- n
	}
	close(numbers)
	var mu sync.Mutex
	var orders []order
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			for n := range numbers {
				body, err := json.Marshal(map[string]any{"labels": map[string]string{"number": fmt.Sprint(n)}, "build_params": map[string]any{
					"source": map[string]any{"git_repo": map[string]any{"url": url}},
					"target": map[string]any{
						"registry": map[string]any{"url": f.site.Registry.Host},
						"images": []any{map[string]any{"image": "chaos", "tag": order{number: n}.tag(),
							"build_args": map[string]any{"N": fmt.Sprint(n), "FAIL": failing(n)}}},
					}}})
				if err != nil {
					panic(err) // a map of strings
				}
				id := f.submit(t.Context(), fmt.Sprintf("chaos-%d", n), body)
				mu.Lock()
				orders = append(orders, order{number: n, id: id})
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return orders
}

// submit submits one build until somebody answers; the key keeps it one.
func (f *fleet) submit(ctx context.Context, key string, body []byte) string {
	for {
		id, err := f.trySubmit(ctx, f.urls[rand.IntN(len(f.urls))], key, body)
		if err == nil {
			return id
		}
		if ctx.Err() != nil {
			return ""
		}
		time.Sleep(clientPause)
	}
}

func (f *fleet) trySubmit(ctx context.Context, url, key string, body []byte) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/invocations", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-API-Key", apiKey)
	request.Header.Set("Idempotency-Key", key)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return "", err
	}
	if answer.StatusCode != http.StatusAccepted {
		if answer.StatusCode < 500 && answer.StatusCode != http.StatusTooManyRequests {
			f.t.Errorf("a good request is answered with %d: %s", answer.StatusCode, text)
		}
		return "", fmt.Errorf("status %d: %s", answer.StatusCode, text)
	}
	var accepted struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(text, &accepted); err != nil || accepted.ID == "" {
		return "", fmt.Errorf("an answer without an id: %s", text)
	}
	return accepted.ID, nil
}
