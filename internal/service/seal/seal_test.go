package seal_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/seal"
)

func key(t testing.TB) (identity, recipient string) {
	t.Helper()
	identity, recipient, err := seal.GenerateKey()
	require.NoError(t, err)
	return identity, recipient
}

func TestSealAndOpen(t *testing.T) {
	t.Parallel()
	identity, recipient := key(t)
	sealer, err := seal.NewSealer(recipient)
	require.NoError(t, err)
	opener, err := seal.NewOpener(identity + "\n")
	require.NoError(t, err)
	for _, doc := range [][]byte{{}, []byte(`{"password": "canary"}`), bytes.Repeat([]byte("x"), 1<<20)} {
		sealed, err := sealer.Seal("id-1", doc)
		require.NoError(t, err)
		require.NotContains(t, string(sealed), "canary")
		require.NotContains(t, string(sealed), "id-1")
		opened, err := opener.Open("id-1", sealed)
		require.NoError(t, err)
		require.True(t, bytes.Equal(doc, opened))
		again, err := sealer.Seal("id-1", doc)
		require.NoError(t, err)
		require.NotEqual(t, sealed, again, "equal documents do not look equal")

		for _, other := range []string{"id-2", "id-", "id-11", ""} {
			_, err = opener.Open(other, sealed)
			require.ErrorIs(t, err, seal.ErrOtherID, other)
		}
		for _, at := range []int{0, len(sealed) / 2, len(sealed) - 1} {
			broken := bytes.Clone(sealed)
			broken[at] ^= 1
			_, err = opener.Open("id-1", broken)
			require.Equal(t, fault.Internal, fault.KindOf(err), "byte %d", at)
			_, err = opener.Open("id-1", sealed[:at])
			require.Error(t, err)
		}
	}
	_, err = sealer.Seal("", nil)
	require.Error(t, err)
	_, err = sealer.Seal(strings.Repeat("x", 2000), nil)
	require.Error(t, err)
}

func TestKeysRotate(t *testing.T) {
	t.Parallel()
	oldIdentity, oldRecipient := key(t)
	newIdentity, newRecipient := key(t)
	before, err := seal.NewSealer(oldRecipient)
	require.NoError(t, err)
	during, err := seal.NewSealer(newRecipient, oldRecipient)
	require.NoError(t, err)
	after, err := seal.NewSealer(newRecipient)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		sealer     *seal.Sealer
		identities []string
		opens      bool
	}{
		"an old document, both keys":      {before, []string{newIdentity, oldIdentity}, true},
		"an old document, new key":        {before, []string{newIdentity}, false},
		"a new document, both keys":       {after, []string{newIdentity, oldIdentity}, true},
		"a new document, old key":         {after, []string{oldIdentity}, false},
		"to both workers, the old one":    {during, []string{oldIdentity}, true},
		"to both workers, the newer ones": {during, []string{newIdentity}, true},
	} {
		sealed, err := c.sealer.Seal("id", []byte("doc"))
		require.NoError(t, err)
		opener, err := seal.NewOpener(c.identities...)
		require.NoError(t, err)
		opened, err := opener.Open("id", sealed)
		if c.opens {
			require.NoError(t, err, name)
			require.Equal(t, "doc", string(opened), name)
			continue
		}
		require.Error(t, err, name)
		require.NotEmpty(t, fault.As(err).Hint, name)
	}
}

func TestKeysThatAreNone(t *testing.T) {
	t.Parallel()
	identity, recipient := key(t)
	for name, err := range map[string]error{
		"no recipient":                 second(seal.NewSealer()),
		"no identity":                  second(seal.NewOpener()),
		"garbage to seal to":           second(seal.NewSealer(recipient, "age1x")),
		"an identity to seal to":       second(seal.NewSealer(identity)),
		"a recipient to open with":     second(seal.NewOpener(recipient)),
		"an identity that is cut off":  second(seal.NewOpener(identity[:len(identity)-1])),
		"an identity with a wrong end": second(seal.NewOpener(identity[:len(identity)-1] + "!")),
	} {
		require.Equal(t, fault.Invalid, fault.KindOf(err), name)
		require.NotContains(t, err.Error(), identity[16:40], name)
	}
}

func TestReadIdentities(t *testing.T) {
	t.Parallel()
	one, recipient := key(t)
	two, _ := key(t)
	of, err := seal.Recipient(one + "\n")
	require.NoError(t, err)
	require.Equal(t, recipient, of)
	_, err = seal.Recipient(one[:30])
	require.Equal(t, fault.Invalid, fault.KindOf(err))
	require.NotContains(t, err.Error(), one[:30])

	file := filepath.Join(t.TempDir(), "identities")
	for text, want := range map[string][]string{
		"# the key\n" + one + "\r\n\n  " + two: {one, two},
		"# nothing\n":                          nil,
		strings.Repeat("#", 1<<20):             nil,
	} {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		got, err := seal.ReadIdentities(file)
		require.Equal(t, want, got)
		if want == nil {
			require.Equal(t, fault.Invalid, fault.KindOf(err))
		}
	}
	_, err = seal.ReadIdentities(file + "x")
	require.Equal(t, fault.Invalid, fault.KindOf(err))
}

func second[V any](_ V, err error) error { return err }

// fuzzKey is a key that protects nothing: each process that fuzzes has to have the same.
const fuzzKey = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX"

func FuzzOpen(f *testing.F) {
	opener, err := seal.NewOpener(fuzzKey)
	require.NoError(f, err)
	identity, err := age.ParseX25519Identity(fuzzKey)
	require.NoError(f, err)
	sealer, err := seal.NewSealer(identity.Recipient().String())
	require.NoError(f, err)
	sealed, err := sealer.Seal("id", []byte("doc"))
	require.NoError(f, err)
	f.Add("id", sealed)
	f.Add("other", sealed)
	f.Add("", []byte("age-encryption.org/v1\n-> X25519 x\n"))
	f.Fuzz(func(t *testing.T, id string, data []byte) {
		opened, err := opener.Open(id, data)
		if err == nil && (id != "id" || string(opened) != "doc") {
			t.Fatalf("%q opens for %q as %q", data, id, opened)
		}
	})
}
