package engine

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"imagebuilder/internal/fault"
)

// failure says in our words what went wrong with a solve.
func (s *buildKitSession) failure(ctx context.Context, v Variant, record *recorder, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		if errors.Is(cause, context.Canceled) {
			return fault.New(fault.Cancelled, "build %s: cancelled", v.Name)
		}
		return cause
	}
	step, lines := record.failed()
	text := short(err.Error())
	if step != nil {
		text = short(step.Error)
	}
	f := classify(v, text)
	if gone(err) && (f == nil || unreachable(err)) {
		f = fault.New(fault.Unavailable, "build %s: %s went away: %s", v.Name, s.engine.address, short(err.Error()))
		f.Err = errGone
		return f
	}
	if f == nil {
		f = fault.New(fault.BuildFailed, "build %s: %s", v.Name, text)
	}
	if step != nil && !isExport(step) {
		f.Message = describeStep(f.Message, step.Name, lines)
	}
	f.Err = err
	return f
}

func describeStep(message, name string, lines []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n  step: %s", message, name)
	if len(lines) > 0 {
		fmt.Fprintf(&b, "\n  its last output:")
		for _, line := range lines {
			fmt.Fprintf(&b, "\n    %s", line)
		}
	}
	return b.String()
}

// signs tell kinds of trouble by the words that BuildKit and containerd have for them; over gRPC nothing
// else of the cause is left. The first match counts.
var signs = []struct {
	pattern *regexp.Regexp
	kind    fault.Kind
	hint    string
}{
	{regexp.MustCompile(`no space left on device|disk quota exceeded`), fault.Unavailable, "free disk space where the engine keeps its state, then try again"},
	{regexp.MustCompile(`x509: |certificate signed by unknown authority|certificate is not trusted`), fault.Invalid, "give the registry's CA in target.registry.ca_cert, or set target.registry.insecure"},
	{regexp.MustCompile(`server gave HTTP response to HTTPS client`), fault.Invalid, "set target.registry.insecure for a registry without TLS"},
	{regexp.MustCompile(`no match for platform in manifest`), fault.NotFound, "choose platforms that the base image has"},
	{regexp.MustCompile(`401 Unauthorized|403 Forbidden|insufficient_scope|authorization failed|denied: |pull access denied|unauthorized: `), fault.Denied, "check user name, password and their rights on this repository"},
	{regexp.MustCompile(`exec format error`), fault.BuildFailed, "this RUN is for a platform that this machine neither is nor emulates: image-builder doctor shows which it can do"},
	{regexp.MustCompile(`(docker\.io|[\w.-]+(:\d+)?)/\S+: not found`), fault.NotFound, ""},
	{regexp.MustCompile(`connection refused|no such host|i/o timeout|TLS handshake timeout|network is unreachable|unexpected status.*\b(429|5\d\d)\b|lookup \S+.*: `), fault.Unavailable, ""},
}

func classify(v Variant, text string) *fault.Error {
	// What a program in a RUN says about itself is its own affair.
	if strings.Contains(text, "did not complete successfully") && !strings.Contains(text, "exec format error") {
		return nil
	}
	for _, sign := range signs {
		if sign.pattern.MatchString(text) {
			f := fault.New(sign.kind, "build %s: %s", v.Name, text)
			f.Hint = sign.hint
			return f
		}
	}
	return nil
}

// passing tells whether a failed push is worth another try. The registry's "did not match" comes of
// two pushes of one blob at once (seen with registry 2.8).
func passing(err error) bool {
	s := err.Error()
	return strings.Contains(s, "provided digest did not match uploaded content") ||
		pushTrouble.MatchString(s)
}

var pushTrouble = regexp.MustCompile(`(?s)(push|exporting).*(unexpected status.*\b(429|500|502|503|504)\b|connection reset by peer|unexpected EOF)`)

// wrappers are what BuildKit puts before the cause; they tell the user nothing.
var wrappers = regexp.MustCompile(`^(failed to solve: |failed to run Build function: |rpc error: code = \w+ desc = )`)

// short cuts BuildKit's wrapping off.
func short(text string) string {
	for {
		cut := wrappers.ReplaceAllString(text, "")
		if cut == text || cut == "" {
			return text
		}
		text = cut
	}
}

// cacheAdvice says what to do about a build cache that the daemon cannot read or write, by the words of its error. A daemon reaches a
// cache by itself, so what only our own configuration knows of a registry does not help it.
func cacheAdvice(text string) string {
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(text, w) })
	}
	switch {
	case has("x509: "), has("HEAD request to http://") && has("400 Bad Request"): // on loopback daemons try http
		return ". The engine's daemon has to know who vouches for that registry: by ca = [FILE] under [registry.\"HOST\"] in its buildkitd.toml, " +
			"in /etc/docker/certs.d/HOST/ca.crt for a Docker Engine, or among the authorities of its machine"
	case has("server gave HTTP response to HTTPS client"):
		return ". That registry speaks plain http: registries.HOST.plain_http in the configuration file says so"
	case has("401 Unauthorized", "403 Forbidden", "insufficient_scope", "authorization failed", "no basic auth credentials", "access denied"):
		return ". The engine's daemon is told one login for each registry host, that of the first repository that is pushed to there: " +
			"it has to reach options.cache.ref too"
	default:
		return ""
	}
}
