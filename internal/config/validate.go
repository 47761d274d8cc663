package config

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"

	"imagebuilder/internal/fault"
)

// validate finds everything that is wrong with what stands in the file, apart from what flags check too. Pointers are those of a
// JSON document of the same form.
func (f *File) validate() []fault.Problem {
	var problems []fault.Problem
	wrong := func(pointer string, err error) {
		if err != nil {
			problems = append(problems, fault.Problem{Pointer: pointer, Message: err.Error()})
		}
	}
	wrong("/engine_idle", checkIdle(f.EngineIdle))
	if f.Parallel < 0 {
		wrong("/parallel", errors.New("it is negative"))
	}
	wrong("/buildkit", checkPair(f.BuildKit.Cert, f.BuildKit.Key))
	for i, n := range f.Nodes {
		at := fmt.Sprintf("/nodes/%d", i)
		if len(n.Platforms) == 0 {
			wrong(at+"/platforms", errors.New("a node claims at least one platform"))
		}
		if n.Address == "" {
			wrong(at+"/address", errors.New("a node has an address, as tcp://builder-arm:1234"))
		}
		wrong(at, checkPair(n.Cert, n.Key))
	}
	for _, host := range slices.Sorted(maps.Keys(f.Registries)) {
		r := f.Registries[host]
		at := "/registries/" + fault.EscapePointer(host)
		wrong(at, checkHost(host))
		for i, mirror := range r.Mirrors {
			wrong(fmt.Sprintf("%s/mirrors/%d", at, i), checkMirror(mirror))
		}
		wrong(at+"/ca", checkFile(r.CA))
		wrong(at+"/credentials", checkFile(r.Credentials))
	}
	return problems
}

func checkPair(cert, key string) error {
	if (cert == "") != (key == "") {
		return errors.New("cert and key go together")
	}
	return nil
}

// checkHost tells whether a text is a registry's host, with or without a port.
func checkHost(host string) error {
	u, err := url.Parse("https://" + host)
	if err != nil || u.Host != host || u.Hostname() == "" {
		return fmt.Errorf("%q is no host of a registry, as docker.io or registry.example.com:5000; it has neither a scheme nor a path", host)
	}
	return nil
}

// checkMirror tells whether a text is a host, or an http or https URL of one.
func checkMirror(text string) error {
	rest := strings.TrimPrefix(strings.TrimPrefix(text, "https://"), "http://")
	u, err := url.Parse("https://" + rest)
	if err != nil || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Contains(rest, "://") {
		return fmt.Errorf("it is a host, as mirror.example.com:5000, or a URL, as https://mirror.example.com/docker-hub")
	}
	return nil
}

func checkFile(path string) error {
	if path == "" {
		return nil
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return fmt.Errorf("%s is a folder", path)
	}
	return nil
}
