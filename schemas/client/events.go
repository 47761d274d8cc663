package client

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"strconv"
)

// Event is one event of a followed log. At most one of its pointers is set.
type Event struct {
	ID    int64 // where to go on after a stream that broke off: GetLogParams.After; 0 where the event is not of the log
	Log   *LogOutput
	Step  *LogStep
	Note  *LogNote
	State *LogState
	End   *LogState // the build has ended, and there is nothing more
}

// maxEvent is more than the service puts into one event: 64 KiB of output, of which JSON may make six times as much.
const maxEvent = 1 << 20

// Events reads an event stream, as the answer to GetLog with EventStream is one, to its end. A stream that ends without an event whose
// End is set has broken off. Events of kinds that this package does not know are passed over.
func Events(stream io.Reader) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		lines := bufio.NewScanner(stream)
		lines.Buffer(nil, maxEvent)
		var e Event
		var name string
		var data []byte
		for lines.Scan() {
			field, value, _ := bytes.Cut(lines.Bytes(), []byte(":"))
			value = bytes.TrimPrefix(value, []byte(" "))
			switch string(field) {
			case "id":
				e.ID, _ = strconv.ParseInt(string(value), 10, 64) // the service's own are numbers
			case "event":
				name = string(value)
			case "data":
				data = append(data, value...)
			case "":
				if len(lines.Bytes()) > 0 { // a comment
					continue
				}
				known, err := e.decode(name, data)
				if (known || err != nil) && !yield(e, err) || err != nil {
					return
				}
				e, name, data = Event{}, "", data[:0]
			}
		}
		if err := lines.Err(); err != nil {
			yield(Event{}, fmt.Errorf("read the event stream: %w", err))
		}
	}
}

func (e *Event) decode(name string, data []byte) (known bool, err error) {
	switch name {
	case "log":
		err = decode(data, &e.Log)
	case "step":
		err = decode(data, &e.Step)
	case "note":
		err = decode(data, &e.Note)
	case "state":
		err = decode(data, &e.State)
	case "end":
		err = decode(data, &e.End)
	default:
		return false, nil
	}
	if err != nil {
		return true, fmt.Errorf("read the event %s: %w", name, err)
	}
	return true, nil
}

func decode[T any](data []byte, into **T) error {
	*into = new(T)
	return json.Unmarshal(data, *into)
}
