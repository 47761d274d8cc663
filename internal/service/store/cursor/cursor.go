// Package cursor writes and reads where a page of a list ends, as text that strangers hand back. It is a package of its
// own so that it can be fuzzed without the databases.
package cursor

import (
	"encoding/base64"
	"errors"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// most bounds what Read looks at; a cursor has about 70 bytes.
const most = 128

// errForeign tells that a text is no cursor.
var errForeign = errors.New("it is not one of ours")

// Write makes the cursor behind an entry of a list: a time in milliseconds since 1970, and a UUID.
func Write(at int64, id string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(at, 10) + " " + id))
}

// Read reads what Write has made, and nothing else.
func Read(text string) (at int64, id string, err error) {
	if len(text) > most {
		return 0, "", errForeign
	}
	plain, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return 0, "", errForeign
	}
	number, id, _ := strings.Cut(string(plain), " ")
	at, err = strconv.ParseInt(number, 10, 64)
	parsed, notID := uuid.Parse(id)
	if err != nil || notID != nil || parsed.String() != id || Write(at, id) != text {
		return 0, "", errForeign
	}
	return at, id, nil
}
