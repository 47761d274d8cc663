package plugin

import (
	"encoding/json"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
	"imagebuilder/plugin/internal/pluginpb"
)

// text makes s fit for the wire: protobuf refuses strings that are not UTF-8, and file names,
// output and error messages are whatever bytes they are. What is too long loses its beginning,
// since the end of an error tells more.
func text(s string) string {
	if len(s) > maxText {
		s = "…" + s[len(s)-maxText:]
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

func raw(b []byte) json.RawMessage {
	if len(b) == 0 {
		return nil
	}
	return b
}

func timeTo(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func timePtrTo(t *time.Time) *timestamppb.Timestamp {
	if t == nil {
		return nil
	}
	return timestamppb.New(*t)
}

func timeFrom(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

func timePtrFrom(t *timestamppb.Timestamp) *time.Time {
	if t == nil {
		return nil
	}
	at := t.AsTime()
	return &at
}

func requestTo(r Request) *pluginpb.Request {
	return &pluginpb.Request{
		NodeType: text(r.NodeType), Operation: text(r.Operation),
		Inputs: r.Inputs, Settings: r.Settings, WorkDir: text(r.WorkDir),
	}
}

func requestFrom(r *pluginpb.Request) Request {
	return Request{
		NodeType: r.GetNodeType(), Operation: r.GetOperation(),
		Inputs: raw(r.GetInputs()), Settings: raw(r.GetSettings()), WorkDir: r.GetWorkDir(),
	}
}

func descriptionTo(d Description) *pluginpb.Description {
	out := &pluginpb.Description{Name: text(d.Name), Version: text(d.Version)}
	for _, n := range d.Nodes {
		node := &pluginpb.NodeType{Name: text(n.Name)}
		for _, o := range n.Operations {
			node.Operations = append(node.Operations, &pluginpb.Operation{
				Name: text(o.Name), Description: text(o.Description), Inputs: o.Inputs, CanPlan: o.CanPlan,
			})
		}
		out.Nodes = append(out.Nodes, node)
	}
	return out
}

func descriptionFrom(d *pluginpb.Description) Description {
	out := Description{Name: d.GetName(), Version: d.GetVersion()}
	for _, n := range d.GetNodes() {
		node := NodeType{Name: n.GetName()}
		for _, o := range n.GetOperations() {
			node.Operations = append(node.Operations, Operation{
				Name: o.GetName(), Description: o.GetDescription(), Inputs: raw(o.GetInputs()), CanPlan: o.GetCanPlan(),
			})
		}
		out.Nodes = append(out.Nodes, node)
	}
	return out
}

// eventsTo gives the messages for an event: none for an empty one, several for a large log.
func eventsTo(e Event) []*pluginpb.Event {
	switch {
	case e.Step != nil:
		return []*pluginpb.Event{{Kind: &pluginpb.Event_Step{Step: stepTo(e.Step)}}}
	case e.Progress != nil:
		return []*pluginpb.Event{{Kind: &pluginpb.Event_Progress{Progress: progressTo(e.Progress)}}}
	case e.Log != nil:
		return logsTo(e.Log)
	case e.Note != nil:
		note := &pluginpb.Note{Level: text(string(e.Note.Level)), Text: text(e.Note.Text)}
		return []*pluginpb.Event{{Kind: &pluginpb.Event_Note{Note: note}}}
	default:
		return nil
	}
}

func stepTo(s *Step) *pluginpb.Step {
	return &pluginpb.Step{
		Id: text(s.ID), Name: text(s.Name), Group: text(s.Group),
		Started: timePtrTo(s.Started), Completed: timePtrTo(s.Completed),
		Cached: s.Cached, Error: text(s.Error),
	}
}

func progressTo(p *Progress) *pluginpb.Progress {
	return &pluginpb.Progress{
		Id: text(p.ID), Step: text(p.Step), Name: text(p.Name), Current: p.Current, Total: p.Total,
		At: timeTo(p.At), Started: timePtrTo(p.Started), Completed: timePtrTo(p.Completed),
	}
}

func logsTo(l *Log) []*pluginpb.Event {
	var out []*pluginpb.Event
	for data := l.Data; ; {
		part := data[:min(len(data), maxLogData)]
		data = data[len(part):]
		log := &pluginpb.Log{Step: text(l.Step), Stream: int32(l.Stream), Data: part, At: timeTo(l.At)}
		out = append(out, &pluginpb.Event{Kind: &pluginpb.Event_Log{Log: log}})
		if len(data) == 0 {
			return out
		}
	}
}

// eventFrom gives the event of a message. It is false for an outcome and for kinds that a newer
// plugin may know.
func eventFrom(e *pluginpb.Event) (Event, bool) {
	switch k := e.GetKind().(type) {
	case *pluginpb.Event_Step:
		s := k.Step
		return Event{Step: &Step{
			ID: s.GetId(), Name: s.GetName(), Group: s.GetGroup(),
			Started: timePtrFrom(s.GetStarted()), Completed: timePtrFrom(s.GetCompleted()),
			Cached: s.GetCached(), Error: s.GetError(),
		}}, true
	case *pluginpb.Event_Progress:
		p := k.Progress
		return Event{Progress: &Progress{
			ID: p.GetId(), Step: p.GetStep(), Name: p.GetName(), Current: p.GetCurrent(), Total: p.GetTotal(),
			At: timeFrom(p.GetAt()), Started: timePtrFrom(p.GetStarted()), Completed: timePtrFrom(p.GetCompleted()),
		}}, true
	case *pluginpb.Event_Log:
		l := k.Log
		return Event{Log: &Log{
			Step: l.GetStep(), Stream: int(l.GetStream()), Data: l.GetData(), At: timeFrom(l.GetAt()),
		}}, true
	case *pluginpb.Event_Note:
		return Event{Note: &Note{Level: event.Level(k.Note.GetLevel()), Text: k.Note.GetText()}}, true
	default:
		return Event{}, false
	}
}

func kindTo(k Kind) pluginpb.Kind {
	switch k {
	case Invalid:
		return pluginpb.Kind_KIND_INVALID
	case Denied:
		return pluginpb.Kind_KIND_DENIED
	case NotFound:
		return pluginpb.Kind_KIND_NOT_FOUND
	case BuildFailed:
		return pluginpb.Kind_KIND_BUILD_FAILED
	case Cancelled:
		return pluginpb.Kind_KIND_CANCELLED
	case Unavailable:
		return pluginpb.Kind_KIND_UNAVAILABLE
	default:
		return pluginpb.Kind_KIND_INTERNAL
	}
}

func kindFrom(k pluginpb.Kind) Kind {
	switch k {
	case pluginpb.Kind_KIND_INVALID:
		return Invalid
	case pluginpb.Kind_KIND_DENIED:
		return Denied
	case pluginpb.Kind_KIND_NOT_FOUND:
		return NotFound
	case pluginpb.Kind_KIND_BUILD_FAILED:
		return BuildFailed
	case pluginpb.Kind_KIND_CANCELLED:
		return Cancelled
	case pluginpb.Kind_KIND_UNAVAILABLE:
		return Unavailable
	default:
		return Internal
	}
}

// errorTo gives the message for an error, nil for nil. An error of another type gets the kind
// that the package fault gives it.
func errorTo(err error) *pluginpb.Error {
	f := fault.As(err)
	if f == nil {
		return nil
	}
	out := &pluginpb.Error{Kind: kindTo(f.Kind), Message: text(f.Message), Hint: text(f.Hint)}
	for _, p := range f.Problems {
		out.Problems = append(out.Problems, &pluginpb.Problem{
			Pointer: text(p.Pointer), Message: text(p.Message), Hint: text(p.Hint),
		})
	}
	return out
}

// errorFrom gives the error of a message, nil for nil.
func errorFrom(e *pluginpb.Error) *Error {
	if e == nil {
		return nil
	}
	out := &Error{Kind: kindFrom(e.GetKind()), Message: e.GetMessage(), Hint: e.GetHint()}
	for _, p := range e.GetProblems() {
		out.Problems = append(out.Problems, Problem{
			Pointer: p.GetPointer(), Message: p.GetMessage(), Hint: p.GetHint(),
		})
	}
	return out
}
