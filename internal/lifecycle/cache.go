package lifecycle

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"regexp"
	"strconv"
	"strings"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/engine"
)

const (
	// cachePrefix begins the tags of caches, so that they can be told from images and removed again.
	cachePrefix = "cache-"
	// defaultScope is the scope of whoever builds the default branch; other scopes read it when they have no cache yet.
	defaultScope = "HEAD"
	// maxScope keeps tags below the 128 characters that a registry allows.
	maxScope = 64
)

// useCache adds the document's build cache to a variant's build. Variants of one image are kept apart by what makes
// their steps different: the bases and the stage; a tag does not. The daemon is told that a registry is insecure.
func (v *variant) useCache(request *engine.Variant, doc *buildparams.Document, isInsecure func(repository string) bool) {
	cache := doc.Options.Cache
	if cache == nil || cache.Mode == buildparams.CacheOff {
		return
	}
	if cache.Mode == buildparams.CacheInline {
		request.CacheTo = []engine.Cache{{Type: "inline", Attrs: map[string]string{}}}
		request.CacheFrom = []engine.Cache{{Type: "registry", Attrs: map[string]string{"ref": v.ref, "registry.insecure": strconv.FormatBool(request.Insecure)}}}
		return
	}
	repository := cache.Ref
	if repository == "" {
		repository = v.repository
	}
	insecure := strconv.FormatBool(isInsecure(repository))
	scope := cacheScope(doc)
	request.CacheTo = []engine.Cache{{Type: "registry", Attrs: map[string]string{
		"ref": v.cacheRef(repository, scope), "registry.insecure": insecure,
		"mode": "max", "ignore-error": "true",
		"oci-mediatypes": "true", "image-manifest": "true", // the form that every registry takes
	}}}
	for _, from := range []string{scope, defaultScope} {
		request.CacheFrom = append(request.CacheFrom, engine.Cache{Type: "registry", Attrs: map[string]string{
			"ref": v.cacheRef(repository, from), "registry.insecure": insecure,
		}})
		if scope == defaultScope {
			break
		}
	}
}

// cacheScope is the scope that the document names, or the version of its source.
func cacheScope(doc *buildparams.Document) string {
	if doc.Options.Cache.Scope != "" {
		return doc.Options.Cache.Scope
	}
	switch src := doc.Source; {
	case src.GitRepo != nil && src.GitRepo.Version != "":
		return src.GitRepo.Version
	case src.BuildContext != nil && src.BuildContext.Version != "":
		return src.BuildContext.Version
	}
	return defaultScope
}

func (v *variant) cacheRef(repository, scope string) string {
	data, err := json.Marshal([]any{v.image.Base, v.image.Bases, v.image.Stage})
	if err != nil {
		data = []byte(v.image.Image) // strings and maps of strings always encode
	}
	sum := sha256.Sum256(data)
	return repository + ":" + scopeTag(scope) + "-" + hex.EncodeToString(sum[:4])
}

var notInTags = regexp.MustCompile(`[^A-Za-z0-9_.-]+`)

// scopeTag makes the beginning of a tag of a scope. Scopes that would look alike are kept apart by a hash.
func scopeTag(scope string) string {
	plain := notInTags.ReplaceAllString(scope, "-")
	if plain == scope && len(scope) <= maxScope {
		return cachePrefix + scope
	}
	sum := sha256.Sum256([]byte(scope))
	return cachePrefix + strings.TrimRight(plain[:min(len(plain), maxScope)], "-.") + "." + hex.EncodeToString(sum[:4])
}
