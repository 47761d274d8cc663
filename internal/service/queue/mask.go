package queue

import (
	"bytes"
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/event"
	"imagebuilder/internal/secret"
)

// minSecret is the length from which on a value is masked where it turns up: taking "a" out of every text would hide nothing and
// garble all.
const minSecret = 4

const (
	// minLine is the same for one line of a secret that has several, of which some say nothing: braces, names of fields.
	minLine = 8
	// shownLine is where the plugin cuts the lines of a failed step's output.
	shownLine = 4096
)

// mask takes the secrets of one document out of what its build says, as when a RUN prints the password that it was given.
type mask struct{ values [][]byte } // the longest first: one may be in another

// maskOf finds the secrets of a document, which is JSON with its secrets in clear.
func maskOf(document []byte) (mask, error) {
	pointers, err := buildparams.SecretPointers(document)
	if err != nil {
		return mask{}, err
	}
	var root any
	if err := json.Unmarshal(document, &root); err != nil {
		return mask{}, err
	}
	var m mask
	for _, p := range pointers {
		text, ok := at(root, p).(string)
		if !ok {
			continue
		}
		if u, err := url.Parse(text); err == nil && u.User != nil { // a URL itself is known; what stands before its host is secret
			if password, has := u.User.Password(); has {
				m.add(password)
			} else {
				m.add(u.User.Username()) // https://TOKEN@host
			}
			continue
		}
		m.add(text)
		m.add(strings.TrimSpace(text)) // as a shell's $(cat file) gives it
		m.addLines(text)
	}
	slices.SortFunc(m.values, func(a, b []byte) int { return len(b) - len(a) })
	return m, nil
}

// addLines adds the lines of a secret that has several, as a key in PEM: errors and displays indent them, and cut long ones.
func (m *mask) addLines(text string) {
	if !strings.Contains(strings.TrimSpace(text), "\n") {
		return
	}
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); len(line) >= minLine {
			m.add(line[:min(len(line), shownLine)])
			m.add(line)
		}
	}
}

// add adds a value, and the forms that it has in URLs and in JSON.
func (m *mask) add(value string) {
	for _, form := range []string{value, url.QueryEscape(value), inJSON(value, true), inJSON(value, false)} {
		if len(form) >= minSecret && form != secret.Mask && !slices.ContainsFunc(m.values, func(v []byte) bool { return string(v) == form }) {
			m.values = append(m.values, []byte(form))
		}
	}
}

// inJSON is how a text stands between the quotes of JSON; encoders differ in whether they spare HTML.
func inJSON(text string, sparingHTML bool) string {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(sparingHTML)
	if err := encoder.Encode(text); err != nil {
		return text
	}
	return strings.TrimSuffix(strings.TrimPrefix(strings.TrimSuffix(b.String(), "\n"), `"`), `"`)
}

// at is the value under a JSON pointer, nil if there is none.
func at(value any, pointer string) any {
	for key := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		key = strings.NewReplacer("~1", "/", "~0", "~").Replace(key)
		switch v := value.(type) {
		case map[string]any:
			value = v[key]
		case []any:
			i, err := strconv.Atoi(key)
			if err != nil || i < 0 || i >= len(v) {
				return nil
			}
			value = v[i]
		default:
			return nil
		}
	}
	return value
}

// bytes gives data without secrets.
func (m mask) bytes(data []byte) []byte {
	for _, v := range m.values {
		if bytes.Contains(data, v) {
			data = bytes.ReplaceAll(data, v, []byte(secret.Mask))
		}
	}
	return data
}

// text is bytes of a text.
func (m mask) text(s string) string {
	if len(m.values) == 0 {
		return s
	}
	return string(m.bytes([]byte(s)))
}

// event gives an event whose texts are without secrets. Output stays as it is: a secret may be spread over several events.
func (m mask) event(e event.Event) event.Event {
	if e.Step != nil {
		s := *e.Step
		s.Name, s.Error = m.text(s.Name), m.text(s.Error)
		e.Step = &s
	}
	if e.Note != nil {
		n := *e.Note
		n.Text = m.text(n.Text)
		e.Note = &n
	}
	return e
}

// held is how many bytes at the end of a stream may turn out to be something else when more comes: the beginning of a secret, or
// of a character.
func (m mask) held(data []byte) int {
	most := partialRune(data)
	for _, v := range m.values {
		for n := min(len(v)-1, len(data)); n > most; n-- {
			if bytes.HasSuffix(data, v[:n]) {
				most = n
				break
			}
		}
	}
	return most
}

// partialRune is the length of the character at the end of data that lacks its end, 0 if there is none.
func partialRune(data []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(data); n++ {
		last := data[len(data)-n:]
		if utf8.RuneStart(last[0]) {
			if utf8.FullRune(last) {
				return 0
			}
			return n
		}
	}
	return 0
}
