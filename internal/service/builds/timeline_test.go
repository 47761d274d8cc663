package builds_test

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/event"
	"imagebuilder/internal/lifecycle"
	"imagebuilder/internal/result"
	"imagebuilder/internal/service/builds"
	"imagebuilder/internal/service/store"
	"imagebuilder/internal/testbed"
	"imagebuilder/plugin"
)

// TestTimelineOfARealBuild builds two variants for two platforms with BuildKit, twice, and looks at what the timeline makes of that.
func TestTimelineOfARealBuild(t *testing.T) {
	t.Parallel()
	site := testbed.NewSite(t, testbed.RegistryOptions{})
	_, err := testbed.PushBases(t.Context(), site.Registry.Host, testbed.BaseOptions{Platforms: []string{"linux/amd64", "linux/386"}})
	require.NoError(t, err)
	url, _ := site.Repository(t, "app", fstest.MapFS{"Dockerfile": {Data: []byte(
		"FROM " + site.Registry.Host + "/base/busybox:1 AS build\nARG NAME\nRUN echo building $NAME > /name && cat /name\nFROM scratch\nCOPY --from=build /name /name\n")}})
	host := site.Registry.Host
	document := fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":%q},"images":[`+
		`{"image":"shop/web","tag":"v1","platforms":["linux/amd64","linux/386"],"build_args":{"NAME":"web %s"}},{"image":"shop/db","tag":"v1","platforms":["linux/amd64"],"build_args":{"NAME":"db %[3]s"}}]}}`,
		url, host, rand.Text()) // nothing that an earlier run of the test has in the engine's cache
	settings, err := json.Marshal(result.Settings{Engine: "buildkit", BuildKitHost: testbed.NewEngine(t), CacheDir: site.CacheDir, Force: true})
	require.NoError(t, err)

	for _, cached := range []bool{false, true} {
		var mu sync.Mutex
		var entries []store.LogEntry
		started := time.Now()
		made, err := lifecycle.New("test").Execute(t.Context(), plugin.Request{
			NodeType: lifecycle.ImageNode, Operation: lifecycle.Create, WorkDir: t.TempDir(), Settings: settings, Inputs: json.RawMessage(document),
		}, func(e plugin.Event) {
			mu.Lock()
			defer mu.Unlock()
			switch {
			case e.Step != nil:
				entries = append(entries, step(*e.Step))
			case e.Note != nil:
				entries = append(entries, note(e.Note.Level, e.Note.Text))
			}
		})
		require.NoError(t, err)
		inv := store.Invocation{
			State: store.StateSuccess, BuildParams: json.RawMessage(document), Result: made, Images: []string{host + "/shop/web:v1", host + "/shop/db:v1"},
			SubmittedAt: started.Add(-time.Second), StartedAt: started, EndedAt: time.Now(),
		}
		line := builds.Fold(inv, entries)

		require.Len(t, line.Variants, 2)
		for i, names := range [][]string{{"linux/amd64", "linux/386"}, {"linux/amd64"}} {
			v := line.Variants[i]
			require.Equal(t, inv.Images[i], v.Ref)
			require.Regexp(t, "^sha256:", v.Digest)
			require.Len(t, v.Platforms, len(names))
			for j, p := range v.Platforms {
				require.Equal(t, names[j], p.Name)
				require.Regexp(t, "^sha256:", p.Digest)
				sum := int64(0)
				for _, layer := range p.Layers {
					require.Regexp(t, "^sha256:", layer.Digest)
					sum += layer.Size
				}
				require.Positive(t, sum)
				require.Less(t, sum, p.Size, "the rest is the config")
				ran := 0
				for _, step := range p.Steps {
					require.Empty(t, step.Error)
					require.False(t, step.Ended.Before(step.Started))
					if strings.Contains(step.Name, "RUN echo building") {
						require.Equal(t, cached, step.Cached, step.Name)
						ran++
					}
				}
				require.Equal(t, 1, ran, "%s %s: %+v", v.Ref, p.Name, p.Steps)
				require.True(t, !cached || p.Cached > 0)
			}
			require.NotEmpty(t, v.Steps, "the export is of no platform")
		}
		phases := map[builds.PhaseName]builds.Phase{}
		for _, p := range line.Phases {
			phases[p.Name] = p
			require.False(t, p.Failed)
			require.False(t, p.Ended.IsZero(), p.Name)
		}
		require.InDelta(t, 1, phases[builds.PhaseQueued].Seconds, 0.001)
		require.Positive(t, phases[builds.PhaseBuild].Seconds)
		require.Positive(t, phases[builds.PhasePush].Steps)
		require.True(t, !cached || phases[builds.PhaseBuild].Cached >= 3, "three RUNs")
	}
}

// TestTimeline has what a real build does not show on demand.
func TestTimeline(t *testing.T) {
	t.Parallel()
	const document = `{"target":{"images":[{"platforms":["linux/arm64","linux/arm/v7"]},{}]}}`
	at := func(s event.Step) store.LogEntry { return step(s) }
	web, db := "shop/web:v1", "shop/db:v1"
	steps := []event.Step{
		{ID: "source:git", Name: "fetch a", Started: after(1), Completed: after(2)},
		{ID: "a", Name: "[linux/amd64->arm64 build 1/2] RUN make", Group: web, Started: after(3), Completed: after(5)},
		{ID: "b", Name: "[linux/amd64->arm/v7 build 1/2] RUN make", Group: web, Started: after(3)},
		{ID: "c", Name: "[linux/amd64 tools 1/2] RUN make", Group: web, Started: after(2.5), Completed: after(3), Cached: true},
		{ID: "c", Name: "[linux/amd64 tools 1/2] RUN make", Group: db, Started: after(2.5), Completed: after(3), Cached: true},
		{ID: "d", Name: "[2/2] COPY . .", Group: db, Started: after(4), Completed: after(4.5), Error: "exit code: 1"},
		{ID: "e", Name: "[internal] load build definition from Dockerfile", Group: db, Started: after(2), Completed: after(2.1)},
		{ID: "f e", Name: "exporting to image", Group: db, Started: after(5)},
		{ID: "merge r.example.com/" + web, Name: "shop/web:v1: make one index", Started: after(6), Completed: after(7)},
		{ID: "g", Name: "announced", Group: db},
	}
	var entries []store.LogEntry
	entries = append(entries, at(event.Step{ID: "old", Name: "RUN old", Group: web, Started: after(0)}), note(event.Info, "old"),
		entry(store.LogAttempt, "", after(0.5), map[string]any{"attempt": 2, "reason": "lost"}))
	for _, s := range steps {
		if s.Completed != nil {
			begun := s
			begun.Completed, begun.Error = nil, ""
			entries = append(entries, at(begun))
		}
		entries = append(entries, at(s))
	}
	entries = append(entries, note(event.Warning, "new"))
	inv := store.Invocation{State: store.StateInProgress, BuildParams: json.RawMessage(document), Images: []string{"r.example.com/" + web, "r.example.com/" + db}}
	names := func(steps []builds.Step) (all []string) {
		for _, s := range steps {
			all = append(all, s.ID)
		}
		return all
	}
	line := builds.Fold(inv, entries)
	require.Equal(t, []builds.Attempt{{Number: 1, Reason: "lost", Ended: *after(0.5)}}, line.Attempts)
	require.Equal(t, []builds.Note{{At: epoch, Level: "warning", Text: "new"}}, line.Notes)
	require.Equal(t, []string{"source:git"}, names(line.Steps))
	require.Equal(t, [][]string{{"a"}, {"b"}, {"c", "merge r.example.com/shop/web:v1"}}, [][]string{
		names(line.Variants[0].Platforms[0].Steps), names(line.Variants[0].Platforms[1].Steps), names(line.Variants[0].Steps),
	})
	require.Equal(t, "linux/amd64", line.Variants[1].Platforms[0].Name)
	require.Equal(t, [][]string{{"c", "d"}, {"e", "f e"}}, [][]string{names(line.Variants[1].Platforms[0].Steps), names(line.Variants[1].Steps)})
	require.Equal(t, []builds.Phase{
		{Name: builds.PhaseFetch, Started: *after(1), Ended: *after(2), Seconds: 1, Steps: 1},
		{Name: builds.PhaseBuild, Started: *after(2), Steps: 5, Cached: 1, Failed: true},
		{Name: builds.PhasePush, Started: *after(5), Steps: 2},
	}, line.Phases)

	inv.State, inv.EndedAt = store.StateFailed, *after(9)
	line = builds.Fold(inv, entries)
	require.Equal(t, builds.Step{ID: "b", Name: steps[2].Name, Started: *after(3), Ended: *after(9), Error: "was stopped", Phase: builds.PhaseBuild}, line.Variants[0].Platforms[1].Steps[0])
	inv.State, inv.EndedAt = store.StatePending, time.Time{}
	require.Equal(t, epoch, builds.Fold(inv, entries).Variants[0].Platforms[1].Steps[0].Ended, "the time of the last entry")

	var many []store.LogEntry
	for i := range 6000 {
		many = append(many, at(event.Step{ID: fmt.Sprint(i), Name: "x", Started: after(1)}), note(event.Info, "x"))
	}
	line = builds.Fold(inv, many)
	require.Len(t, line.Steps, 5000)
	require.Len(t, line.Notes, 500)
	require.True(t, line.Cut)
}
