package builds

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/auth"
)

// labelKey is as Kubernetes has the name of a label, with one / for those who put a domain before it.
var labelKey = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?(/[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?$`)

// traceParent is what W3C Trace Context has of version 00. Anything else is dropped, as that text says.
var traceParent = regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)

// request looks at everything in a request but its document. It gives the group that the build is of.
func (s *Service) request(p auth.Principal, r Request) (group string, problems []fault.Problem) {
	wrong := func(pointer, message, hint string) {
		problems = append(problems, fault.Problem{Pointer: pointer, Message: message, Hint: hint})
	}
	switch group = r.Group; {
	case group == "" && len(p.Groups) == 1:
		group = p.Groups[0]
	case group != "" && !p.InGroup(group):
		wrong("/group", "is not a group of the caller", "leave it out, or name one that the credentials have")
	}
	problems = append(problems, labelProblems(r.Labels)...)
	if r.Priority < 0 || r.Priority > mostPriority {
		wrong("/priority", "is not a number from 1 to "+strconv.Itoa(mostPriority), "the higher goes first; 2 is usual")
	}
	if r.Timeout < 0 {
		wrong("/timeout", "is not a positive time", "leave it out for the limit of the service")
	}
	if r.QueueTTL < 0 {
		wrong("/queue_ttl", "is not a positive time", "leave it out for the limit of the service")
	}
	if k := r.IdempotencyKey; len(k) > maxIdempotencyKey || strings.ContainsFunc(k, func(r rune) bool { return r < ' ' || r > '~' }) {
		wrong("/idempotency_key", "is not a text of up to "+strconv.Itoa(maxIdempotencyKey)+" ASCII characters", "a UUID is a good one")
	}
	if r.Webhook != nil {
		problems = append(problems, s.config.Policy.Webhook(r.Webhook.URL, r.Webhook.Secret)...)
	}
	return group, problems
}

func labelProblems(labels map[string]string) (problems []fault.Problem) {
	if len(labels) > maxLabels {
		return []fault.Problem{{Pointer: "/labels", Message: "has more than " + strconv.Itoa(maxLabels) + " labels"}}
	}
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		pointer := "/labels/" + fault.EscapePointer(key)
		switch value := labels[key]; {
		case len(key) > maxLabelKey || !labelKey.MatchString(key):
			problems = append(problems, fault.Problem{
				Pointer: "/labels", Message: "has a name that is not one of a label",
				Hint: "up to " + strconv.Itoa(maxLabelKey) + " letters, digits and . _ - inside, with at most one /",
			})
		case len(value) > maxLabelValue:
			problems = append(problems, fault.Problem{Pointer: pointer, Message: "is longer than " + strconv.Itoa(maxLabelValue) + " bytes"})
		case !utf8.ValidString(value) || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }):
			problems = append(problems, fault.Problem{Pointer: pointer, Message: "holds a control character"})
		}
	}
	return problems
}
