// Package seal encrypts documents to the workers with age, so that whoever stores them, the API included, cannot read
// them back. A sealed document holds the id that it was sealed for, and opens for no other.
package seal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"

	"imagebuilder/internal/fault"
)

const (
	// maxID bounds an id; ours are UUIDs of 36 bytes.
	maxID = 1 << 10
	// maxSealed bounds what Open reads into memory: the API takes documents that are far smaller.
	maxSealed = 64 << 20
)

// ErrOtherID is in the chain of Open's error when a document was sealed for another id.
var ErrOtherID = errors.New("sealed for another id")

// Sealer seals documents. It cannot open them.
type Sealer struct{ recipients []age.Recipient }

// NewSealer makes a Sealer from recipients, as GenerateKey gives them: each of their identities opens what is sealed.
func NewSealer(recipients ...string) (*Sealer, error) {
	if len(recipients) == 0 {
		return nil, fault.New(fault.Invalid, "seal documents: no recipient is given").WithHint("image-builder-api keygen makes a key")
	}
	s := &Sealer{}
	for i, text := range recipients {
		r, err := age.ParseX25519Recipient(strings.TrimSpace(text))
		if err != nil {
			// The text may be an identity by mistake, so neither it nor an error that quotes it is shown.
			return nil, fault.New(fault.Invalid, "recipient %d for sealing documents is not an age recipient (age1…)", i+1)
		}
		s.recipients = append(s.recipients, r)
	}
	return s, nil
}

// Seal encrypts a document for an id.
func (s *Sealer) Seal(id string, doc []byte) ([]byte, error) {
	if id == "" || len(id) > maxID {
		return nil, fault.New(fault.Internal, "seal a document: its id has %d bytes", len(id))
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, s.recipients...)
	if err != nil {
		return nil, fmt.Errorf("seal the document of %s: %w", id, err)
	}
	plain := binary.BigEndian.AppendUint16(nil, uint16(len(id))) //nolint:gosec // G115: maxID fits
	for _, part := range [][]byte{plain, []byte(id), doc} {
		if _, err := w.Write(part); err != nil {
			return nil, fmt.Errorf("seal the document of %s: %w", id, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("seal the document of %s: %w", id, err)
	}
	return out.Bytes(), nil
}

// Opener opens sealed documents.
type Opener struct{ identities []age.Identity }

// NewOpener makes an Opener from identities, as GenerateKey gives them: the current one, and older ones whose documents
// may still wait.
func NewOpener(identities ...string) (*Opener, error) {
	if len(identities) == 0 {
		return nil, fault.New(fault.Invalid, "open sealed documents: no identity is given").WithHint("image-builder-api keygen makes a key")
	}
	o := &Opener{}
	for i, text := range identities {
		identity, err := age.ParseX25519Identity(strings.TrimSpace(text))
		if err != nil {
			return nil, fault.New(fault.Invalid, "identity %d for opening documents is not an age identity (AGE-SECRET-KEY-1…)", i+1)
		}
		o.identities = append(o.identities, identity)
	}
	return o, nil
}

// Open decrypts a document that was sealed for an id.
func (o *Opener) Open(id string, sealed []byte) ([]byte, error) {
	if len(sealed) > maxSealed {
		return nil, fault.New(fault.Invalid, "open the document of %s: it has %d bytes, more than %d", id, len(sealed), maxSealed)
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), o.identities...)
	if err != nil {
		return nil, fault.New(fault.Internal, "open the document of %s: %w", id, err).
			WithHint("the worker needs the identity of a recipient that the API seals to")
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		return nil, fault.New(fault.Internal, "open the document of %s: %w", id, err)
	}
	if len(plain) < 2 {
		return nil, fault.New(fault.Internal, "open the document of %s: it is too short", id)
	}
	n := int(binary.BigEndian.Uint16(plain))
	plain = plain[2:]
	if n > len(plain) || string(plain[:n]) != id {
		return nil, fault.New(fault.Internal, "open the document of %s: %w", id, ErrOtherID)
	}
	return plain[n:], nil
}

// GenerateKey makes a key: the identity is the workers' secret, the recipient is for the API and public.
func GenerateKey() (identity, recipient string, err error) {
	key, err := age.GenerateX25519Identity()
	if err != nil {
		return "", "", fmt.Errorf("make a key for sealing documents: %w", err)
	}
	return key.String(), key.Recipient().String(), nil
}
