package registry

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"

	"imagebuilder/internal/fault"
)

func newLogin(auth types.AuthConfig, source string) login {
	l := login{username: auth.Username, secret: auth.Password, bearer: auth.RegistryToken, source: source}
	if auth.IdentityToken != "" {
		l.username, l.secret = "", auth.IdentityToken
	}
	return l
}

// load reads the configuration, unless it has been read a short while ago. It gives nil where there is no home to look in.
func (d *dockerConfig) load(host string) (file *configfile.ConfigFile, path string, err error) {
	path = d.file
	if path == "" {
		dir, err := d.folder()
		if err != nil {
			return nil, "", nil // no home, no configuration
		}
		path = filepath.Join(dir, config.ConfigFileName)
	}
	if d.loaded != nil && time.Now().Before(d.until) {
		return d.loaded, path, nil
	}
	if d.file == "" {
		file, err = config.Load(filepath.Dir(path))
	} else {
		file, err = readAuthFile(path)
	}
	if err != nil {
		return nil, path, fault.New(fault.Denied, "read %s for credentials of %s: %w", path, host, err).
			WithHint("mend %s, or give username and password in target.registry", path)
	}
	d.loaded, d.until = file, time.Now().Add(credentialsLife)
	return file, path, nil
}

// readAuthFile reads a file in the form of Docker's config.json, or of containers-auth.json, which is a part of that.
func readAuthFile(path string) (*configfile.ConfigFile, error) {
	data, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = data.Close() }()
	file := configfile.New(path)
	return file, file.LoadFromReader(data)
}

// byPath looks for an entry for the repository, or for the longest part of its path that has one, as containers-auth.json
// (containers-auth.json(5)) has them: registry.example.com/team/app, then registry.example.com/team.
func (d *dockerConfig) byPath(host, repository string) (l login, found bool) {
	if repository == "" {
		return login{}, false
	}
	file, path, err := d.load(host)
	if err != nil || file == nil {
		return login{}, false // who is asked for the host next says what is wrong, unless the environment has the answer
	}
	all := file.GetAuthConfigs()
	for part := repository; part != ""; part = part[:max(strings.LastIndex(part, "/"), 0)] {
		key := host + "/" + part
		if auth := all[key]; authenticates(auth) {
			return newLogin(auth, "the credentials of "+path+" for "+key), true
		}
	}
	return login{}, false
}

// authenticates tells whether an entry holds anything; docker leaves empty ones where a helper has the rest.
func authenticates(auth types.AuthConfig) bool {
	return auth.Username != "" || auth.Password != "" || auth.IdentityToken != "" || auth.RegistryToken != ""
}

// ofHost is the entry of a host as a whole. docker's own look-up would take that of any path of it.
func ofHost(all map[string]types.AuthConfig, host string) types.AuthConfig {
	exact := []string{host}
	if host == dockerHub {
		exact = []string{hubConfigKey, dockerHub}
	}
	for _, key := range exact {
		if auth, ok := all[key]; ok {
			return auth
		}
	}
	for _, key := range slices.Sorted(maps.Keys(all)) { // for the same answer each time
		if keyHost(key) == host {
			return all[key]
		}
	}
	return types.AuthConfig{}
}

// keyHost is the host that a key stands for, in the forms that docker has written at some time, and "" for a
// path of one.
func keyHost(key string) string {
	rest := strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	host, path, _ := strings.Cut(rest, "/")
	switch strings.Trim(path, "/") {
	case "", "v1", "v2":
		return canonicalHost(host)
	}
	return ""
}
