package web

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/service/auth"
)

func TestDocumentOf(t *testing.T) {
	t.Parallel()
	typed := url.Values{
		sourceKind:                       {kindBoth},
		"/source/git_repo/url":           {"https://git.example.com/not-chosen.git"},
		"/source/dockerfile/url":         {" https://files.example.com/Dockerfile "},
		"/source/build_context/url":      {"https://git.example.com/a.git"},
		"/source/build_context/subdir":   {""},
		"/source/build_context/password": {" with spaces "},
		"/target/registry/url":           {"registry.example.com"},
		"/target/registry/insecure":      {"true"},
		"/target/images/0/image":         {"a"},
		"/target/images/0/platforms":     {"linux/arm64", "linux/386", "linux/arm/v6, linux/riscv64"},
		"/target/images/1/bases":         {"alpine=b:1\r\n\r\ngolang:1.13=c@sha256:0\n"},
		"/target/images/99/image":        {"beyond"},
		"/options/compression_level":     {"3"},
		"/options/cache/mode":            {"inline"},
		"/options/secrets":               {"a=1=2\n"},
		"/options/build_args":            {"A\nB=2\nB=3"},
		"/unknown":                       {"x"},
	}
	data, problems := documentOf(typed)
	require.JSONEq(t, `{"source":{"dockerfile":{"url":"https://files.example.com/Dockerfile"},"build_context":{"url":"https://git.example.com/a.git","password":" with spaces "}},
		"target":{"registry":{"url":"registry.example.com","insecure":true},"images":[{"image":"a","platforms":["linux/arm64","linux/386","linux/arm/v6","linux/riscv64"]},
		{"bases":{"alpine":"b:1","golang:1.13":"c@sha256:0"}}]},
		"options":{"compression_level":3,"cache":{"mode":"inline"},"secrets":{"a":"1=2"},"build_args":{"B":"2"}}}`, string(data))
	require.Len(t, problems, 2)
	for _, p := range problems {
		require.Equal(t, "/options/build_args", p.Pointer)
	}
}

// FuzzDocumentOf requires that any form makes a document, and a page in which nothing is lost that is no secret.
func FuzzDocumentOf(f *testing.F) {
	f.Add("source_kind=dockerfile&/source/dockerfile/url=x&/target/images/3/image=a&/options/build_args=A%3D1")
	f.Add("mode=document&document=a%3A+1&/priority=x")
	f.Fuzz(func(t *testing.T, query string) {
		typed, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		data, _ := documentOf(typed)
		var tree map[string]any
		require.NoError(t, json.Unmarshal(data, &tree))
		requestOf(typed)
		s := &server{}
		page := s.newPage(typed, visitor{Principal: auth.Principal{Subject: "x"}}, nil)
		require.LessOrEqual(t, len(page.Images), maxImages)
		if page.Mode == modeForm {
			require.Equal(t, typed.Get("/target/images/0/tag"), strings.ReplaceAll(page.Images[0].First[1].Value, "****", typed.Get("/target/images/0/tag")))
		}
	})
}

func TestPlaces(t *testing.T) {
	t.Parallel()
	document := []byte("# comment\nsource:\n  git_repo:\n    url: x\ntarget:\n  images:\n  - image: a\n  - image: b\n    labels: {a/b: c}\n")
	for pointer, want := range map[string]int{
		"/source/git_repo/url": 4, "/target/images/1/image": 8, "/target/images/1/labels/a~1b": 9, "/target/images/7/tag": 7, "": 0, "/nowhere": 0,
	} {
		require.Equal(t, want, placesIn(document).line(pointer), pointer)
	}
	require.Equal(t, 2, placesIn([]byte("{\n\"source\": 1}")).line("/source"))
	require.Zero(t, placesIn([]byte("a: [")).line("/a"))
}

// TestPlacesAreFoundQuickly reads what keeps a YAML parser busy, or uses up its stack.
func TestPlacesAreFoundQuickly(t *testing.T) {
	t.Parallel()
	const many = 250_000
	begun := time.Now()
	for _, document := range []string{
		strings.Repeat("[", many), strings.Repeat("[", many) + strings.Repeat("]", many), strings.Repeat("{a: ", many), strings.Repeat("- ", many),
		strings.Repeat("? ", many), "a: &a [x]\n" + strings.Repeat("b: [*a,*a,*a,*a]\n", 9999),
	} {
		require.Zero(t, placesIn([]byte(document)).line("/a/b/c"))
	}
	require.Less(t, time.Since(begun), 20*time.Second)
}

func FuzzPlaces(f *testing.F) {
	f.Add([]byte("a: [1, {b: c}]"), "/a/1/b")
	f.Add([]byte("{\"a\": &x [*x]}"), "/a/0/0")
	f.Fuzz(func(t *testing.T, document []byte, pointer string) {
		if len(document) > 4<<10 || len(pointer) > 200 || !strings.HasPrefix(pointer, "/") {
			return
		}
		require.GreaterOrEqual(t, placesIn(document).line(pointer), 0)
	})
}
