package seal

import (
	"fmt"
	"os"
	"strings"

	"filippo.io/age"

	"imagebuilder/internal/fault"
)

// maxIdentities bounds a file of identities: one has less than 200 bytes with its comment.
const maxIdentities = 64 << 10

// ReadIdentities reads a file of identities: one on each line, the current one first; lines that begin with # are comments.
func ReadIdentities(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err == nil && info.Size() > maxIdentities {
		err = fmt.Errorf("%s has %d bytes, more than any file of identities", path, info.Size())
	}
	var data []byte
	if err == nil {
		data, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fault.New(fault.Invalid, "identities of the workers: %w", err)
	}
	var identities []string
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			identities = append(identities, line)
		}
	}
	if len(identities) == 0 {
		return nil, fault.New(fault.Invalid, "identities of the workers: there is none in %s", path).WithHint("image-builder-api keygen makes one")
	}
	return identities, nil
}

// Recipient is whom to seal to so that an identity opens it.
func Recipient(identity string) (string, error) {
	key, err := age.ParseX25519Identity(strings.TrimSpace(identity))
	if err != nil {
		return "", fault.New(fault.Invalid, "the identity of the workers is not an age identity (AGE-SECRET-KEY-1…)")
	}
	return key.Recipient().String(), nil
}
