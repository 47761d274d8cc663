package source

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

func FuzzLFSPointer(f *testing.F) {
	oid := strings.Repeat("ab", 32)
	for _, seed := range []string{
		lfsStart + "oid sha256:" + oid + "\nsize 12\n", lfsStart, lfsStart + "size 12\n", lfsStart + "oid sha256:" + oid + "\nsize 99999999999999999999\n",
		lfsStart + "oid sha256:" + oid + "\nsize -1\n", "size 1\n", lfsStart + "oid sha256:../../etc\nsize 1\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		o, err := parsePointer(text)
		if err != nil {
			return
		}
		if !regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(o.OID) || o.Size < 0 {
			t.Fatalf("%q: %+v", text, o)
		}
		again, err := parsePointer(fmt.Sprintf("%soid sha256:%s\nsize %d\n", lfsStart, o.OID, o.Size))
		if err != nil || again != o {
			t.Fatalf("%q: %+v, %+v, %v", text, o, again, err)
		}
	})
}

func FuzzLFSConfig(f *testing.F) {
	for _, seed := range []string{"", "[lfs]\n\turl = https://example.com/lfs\n", "[remote \"origin\"]\n\tlfsurl = http://x\n", "[lfs", "[lfs]\nurl", "\xff[lfs]\nurl=\"\\x\""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		first, err := lfsURL(strings.NewReader(text))
		second, again := lfsURL(strings.NewReader(text))
		if first != second || (err == nil) != (again == nil) {
			t.Fatalf("%q is read in two ways", text)
		}
	})
}
