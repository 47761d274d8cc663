package auth

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"imagebuilder/internal/fault"
)

const (
	// minKeyLength is what a key must have: 20 random characters of base64 are 120 bits, of hexadecimal 80. A key that
	// cannot be guessed is why one round of SHA-256 without salt is enough to store it: a slow hash protects what people
	// think up, and would let anybody keep our processors busy.
	minKeyLength = 20
	// defaultKey is the name of the key that is configured by itself.
	defaultKey  = "default"
	keyPrefix   = "ib_" // lets people and secret scanners tell what a string is
	hashPrefix  = "sha256:"
	maxKeys     = 10_000  // all are compared at each request: 10,000 take 0.2 ms
	maxKeysFile = 4 << 20 // 10,000 entries with some groups each
)

// KeyEntry is one line of the file of API keys.
type KeyEntry struct {
	Name    string    `yaml:"name"`             // two entries of one name are one caller: for changing a key without a gap
	Hash    string    `yaml:"hash"`             // "sha256:" and the hexadecimal SHA-256 of the key
	Scopes  []string  `yaml:"scopes,omitempty"` // of the four scopes; default builds:submit
	Groups  []string  `yaml:"groups,omitempty"`
	Expires time.Time `yaml:"expires,omitempty"` // absent: never
}

// key is an entry that has been checked.
type key struct {
	hash      [sha256.Size]byte
	principal Principal
	expires   time.Time
}

// fingerprint tells keys apart where the key itself must not stand.
func (k key) fingerprint() string { return hex.EncodeToString(k.hash[:]) }

// NewKey makes a random key and its entry for the file. The key is to be shown once and kept nowhere.
func NewKey(random io.Reader, entry KeyEntry) (string, KeyEntry, error) {
	secret := make([]byte, 32)
	if _, err := io.ReadFull(random, secret); err != nil {
		return "", KeyEntry{}, fmt.Errorf("make an API key: %w", err)
	}
	value := keyPrefix + base64.RawURLEncoding.EncodeToString(secret)
	hash := sha256.Sum256([]byte(value))
	entry.Hash = hashPrefix + hex.EncodeToString(hash[:])
	if _, err := entry.check(); err != nil {
		return "", KeyEntry{}, fault.New(fault.Invalid, "make an API key: %w", err)
	}
	return value, entry, nil
}

// Line is the entry as it stands in the file, a list: one line, to be appended.
func (e KeyEntry) Line() string {
	var b strings.Builder
	fmt.Fprintf(&b, "- {name: %q, hash: %q", e.Name, e.Hash)
	if len(e.Scopes) > 0 {
		fmt.Fprintf(&b, ", scopes: %s", quotedList(e.Scopes))
	}
	if len(e.Groups) > 0 {
		fmt.Fprintf(&b, ", groups: %s", quotedList(e.Groups))
	}
	if !e.Expires.IsZero() {
		fmt.Fprintf(&b, ", expires: %s", e.Expires.UTC().Format(time.RFC3339))
	}
	return b.String() + "}\n"
}

func quotedList(texts []string) string {
	quoted := make([]string, len(texts))
	for i, text := range texts {
		quoted[i] = fmt.Sprintf("%q", text)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// check makes a key of an entry.
func (e KeyEntry) check() (key, error) {
	if !regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`).MatchString(e.Name) {
		return key{}, fmt.Errorf("name %q: want a letter or digit, then at most 63 letters, digits, dots, hyphens and underscores", e.Name)
	}
	if e.Name == defaultKey {
		return key{}, fmt.Errorf("the name %s belongs to AUTH_API_KEY", defaultKey)
	}
	digits, ok := strings.CutPrefix(e.Hash, hashPrefix)
	hash, err := hex.DecodeString(digits)
	if !ok || err != nil || len(hash) != sha256.Size {
		return key{}, fmt.Errorf("key %s: hash is not %s and 64 hexadecimal digits", e.Name, hashPrefix)
	}
	scopes := e.Scopes
	if scopes == nil { // absent; an empty list is a caller who may do nothing
		scopes = []string{ScopeSubmit}
	}
	for _, scope := range scopes {
		if !slices.Contains(allScopes(), scope) {
			return key{}, fmt.Errorf("key %s: scope %q is none of %s", e.Name, scope, strings.Join(allScopes(), ", "))
		}
	}
	for _, group := range e.Groups {
		if !fitsIdentifier(group) {
			return key{}, fmt.Errorf("key %s: group %q: want 1 to %d characters that print", e.Name, group, maxIdentifier)
		}
	}
	k := key{expires: e.Expires, principal: Principal{Subject: "key:" + e.Name, Name: e.Name, Groups: e.Groups, Scopes: scopes}}
	copy(k.hash[:], hash)
	return k, nil
}

func allScopes() []string { return []string{ScopeSubmit, ScopeRead, ScopeReadAll, ScopeAdmin} }

// parseEntries reads a YAML list of entries. The YAML library panics at some input that is none.
func parseEntries(data []byte) (entries []KeyEntry, err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("not a list of API keys: not YAML")
		}
	}()
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, nil
	}
	if err := yaml.UnmarshalWithOptions(data, &entries, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("not a list of API keys: %s", yaml.FormatError(err, false, false))
	}
	return entries, nil
}

// parseKeys reads a file of keys. The first thing that is wrong is in the error.
func parseKeys(data []byte) ([]key, error) {
	entries, err := parseEntries(data)
	if err != nil {
		return nil, err
	}
	if len(entries) > maxKeys {
		return nil, fmt.Errorf("%d API keys, more than %d", len(entries), maxKeys)
	}
	keys := make([]key, 0, len(entries))
	seen := make(map[[sha256.Size]byte]string, len(entries))
	for i, entry := range entries {
		k, err := entry.check()
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", i+1, err)
		}
		if other, twice := seen[k.hash]; twice {
			return nil, fmt.Errorf("entry %d: %s and %s have the same key", i+1, other, entry.Name)
		}
		seen[k.hash] = entry.Name
		keys = append(keys, k)
	}
	return keys, nil
}

// matching finds the key in time that does not depend on which one it is, or whether there is one.
func matching(keys []key, presented string) (key, bool) {
	hash := sha256.Sum256([]byte(presented))
	found := -1
	for i := range keys {
		equal := subtle.ConstantTimeCompare(keys[i].hash[:], hash[:])
		found = subtle.ConstantTimeSelect(equal, i, found)
	}
	// A short key may have been hashed by hand; its hash can be reversed by trying, so it is not good here.
	if found < 0 || len(presented) < minKeyLength {
		return key{}, false
	}
	return keys[found], true
}
