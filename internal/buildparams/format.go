package buildparams

import (
	"encoding/json"
	"fmt"
)

// Every type that holds a secret, at whatever depth, prints itself: package fmt asks no field of a struct how to print it once a
// verb does not fit a field beside it (as %s and a pointer), and would show the secret's own text.

// Format writes the document as JSON with its secrets masked, whatever the verb is.
func (d Document) Format(s fmt.State, _ rune) { writeMasked(s, d) }

// Format writes the source as JSON with its secrets masked, whatever the verb is.
func (s Source) Format(to fmt.State, _ rune) { writeMasked(to, s) }

// Format writes the repository as JSON with its password masked, whatever the verb is.
func (g GitRepo) Format(s fmt.State, _ rune) { writeMasked(s, g) }

// Format writes the Dockerfile's source as JSON with its password masked, whatever the verb is.
func (d Dockerfile) Format(s fmt.State, _ rune) { writeMasked(s, d) }

// Format writes the context as JSON with its password masked, whatever the verb is.
func (c BuildContext) Format(s fmt.State, _ rune) { writeMasked(s, c) }

// Format writes the target as JSON with its password masked, whatever the verb is.
func (t Target) Format(s fmt.State, _ rune) { writeMasked(s, t) }

// Format writes the registry as JSON with its password masked, whatever the verb is.
func (r Registry) Format(s fmt.State, _ rune) { writeMasked(s, r) }

// Format writes the options as JSON with their secrets masked, whatever the verb is.
func (o Options) Format(s fmt.State, _ rune) { writeMasked(s, o) }

func writeMasked(s fmt.State, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		data = []byte(err.Error()) // encoding/json's errors name types only
	}
	_, _ = s.Write(data)
}
