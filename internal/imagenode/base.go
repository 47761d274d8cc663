package imagenode

import (
	"encoding/json"
	"fmt"
	"strings"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/result"
)

// base puts the base node's image under every image of ours that names no base itself.
func (r *reader) base() {
	in := r.in
	if in.baseRef == "" && in.baseTarget == nil {
		if in.baseTag != "" {
			r.wrong("/base_tag", "there is no base that it could be a tag of", "")
		}
		return
	}
	for i := range in.document.Target.Images {
		image := &in.document.Target.Images[i]
		if image.Base != "" {
			continue
		}
		if image.Base = in.baseRef; image.Base == "" {
			image.Base = r.chooseBase(i, image.Tag)
		}
	}
	if in.baseRef != "" {
		r.checkBaseRef()
	}
}

// checkBaseRef lets the rules of a document's base say what is wrong with base_ref.
func (r *reader) checkBaseRef() {
	data, err := buildparams.MarshalWithSecrets(r.in.document)
	if err == nil {
		_, err = buildparams.Decode(data, "build_params.json")
	}
	if err != nil {
		r.wrong("/base_ref", fmt.Sprintf("%q is not an image reference", r.in.baseRef), "for example registry.example.com/team/app@sha256:…")
	}
}

// chooseBase is the base node's image that the i-th image of ours stands on, which has a tag.
func (r *reader) chooseBase(i int, tag string) string {
	base := r.in.baseTarget
	wanted := tag
	if r.in.baseTag != "" {
		wanted = r.in.baseTag
	}
	var all, chosen []string
	for n, image := range base.Target.Images {
		all = append(all, base.Ref(n))
		if image.Tag == wanted {
			chosen = append(chosen, base.Ref(n))
		}
	}
	switch {
	case r.in.baseTag == "" && len(all) == 1:
		chosen = all
	case r.in.baseTag != "" && len(chosen) != 1:
		if i == 0 { // once is enough
			r.wrong("/base_tag", fmt.Sprintf("%s of the base's images have the tag %s", countOf(chosen), wanted), "the base has "+strings.Join(all, ", "))
		}
		return ""
	case len(chosen) != 1:
		r.wrong(fmt.Sprintf("/target/images/%d", i),
			fmt.Sprintf("which image it stands on is not clear: %s of the base's images have the tag %s", countOf(chosen), wanted),
			"choose one with base_tag; the base has "+strings.Join(all, ", "))
		return ""
	}
	if pinned := r.in.basePins[chosen[0]]; pinned != "" {
		return pinned
	}
	return chosen[0]
}

func countOf(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return fmt.Sprint(len(list))
}

// pins reads base_images, the attribute images of the base node: with it a derived image gets the exact digest even
// where the base has several images.
func (r *reader) pins() {
	value := r.given["base_images"]
	if value == nil {
		return
	}
	var images []struct {
		Ref    string `json:"ref"`
		Pinned string `json:"pinned_ref"`
	}
	if json.Unmarshal(value, &images) != nil {
		r.wrong("/base_images", "is not the attribute images of an image node", "")
		return
	}
	r.in.basePins = map[string]string{}
	for _, image := range images {
		r.in.basePins[image.Ref] = image.Pinned
	}
}

// reachBase tells the plugin how the base's registry is reached, where it is another one than the target's.
func (in *inputs) reachBase(s *result.Settings) {
	if in.baseTarget == nil {
		return
	}
	registry := in.baseTarget.Target.Registry
	host := registry.Host()
	if host == in.document.Target.Registry.Host() || (!registry.PlainHTTP() && !registry.Insecure) {
		return
	}
	site := s.Registries[host]
	site.PlainHTTP = site.PlainHTTP || registry.PlainHTTP()
	site.Insecure = site.Insecure || registry.Insecure
	if s.Registries == nil {
		s.Registries = map[string]result.RegistrySettings{}
	}
	s.Registries[host] = site
}
