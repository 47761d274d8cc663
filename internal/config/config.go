// Package config reads the configuration file: how a user, or everybody on a machine, wants images to be built, apart from
// what is built. docs/configuration.md describes it for its readers.
//
// It reads and checks the file and nothing else: where the file is, and what it says. Flags and environment variables go before
// it; that is the command line's affair. It holds no secrets, only the names of files that do.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/goccy/go-yaml"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
)

const (
	// EnvironmentVariable names the file, as --config does.
	EnvironmentVariable = "IMAGE_BUILDER_CONFIG"
	// SystemPath is the file of everybody on a machine.
	SystemPath = "/etc/image-builder/config.yaml"
	// maxFile is the most that is read of a file, in bytes: a mistaken path is not to be read whole.
	maxFile = 1 << 20
)

// File is what a configuration file says. What it leaves out has the default of the flag.
type File struct {
	Engine         string              `yaml:"engine"`           // auto, buildkit, docker or managed, as --engine
	BuildKit       BuildKit            `yaml:"buildkit"`         // of the engine buildkit
	Nodes          []Node              `yaml:"nodes"`            // BuildKit daemons for platforms of their own, as --node
	StateDir       string              `yaml:"state_dir"`        // folder where the managed engine lives, as --state-dir
	CacheDir       string              `yaml:"cache_dir"`        // folder where mirrors of git repositories live, as --cache-dir
	EngineIdle     string              `yaml:"engine_idle"`      // how long the managed engine is kept, as 5m; as --engine-idle
	EngineCacheCap string              `yaml:"engine_cache_cap"` // most that the managed engine's build cache takes, as 20GB; as --engine-cache-cap
	Parallel       int                 `yaml:"parallel"`         // variants built at once, as --parallel
	Registries     map[string]Registry `yaml:"registries"`       // by host, as docker.io or registry.example.com:5000

	path string
}

// BuildKit is where the daemon of the engine buildkit is.
type BuildKit struct {
	Host string `yaml:"host"` // address, as --buildkit-host
	CA   string `yaml:"ca"`   // PEM file: who vouches for a tcp:// daemon
	Cert string `yaml:"cert"` // PEM file: our certificate
	Key  string `yaml:"key"`  // PEM file: its key
}

// Node is a BuildKit daemon that builds the platforms that it claims.
type Node struct {
	Platforms []string `yaml:"platforms"` // as linux/arm64
	Address   string   `yaml:"address"`   // as BUILDKIT_HOST
	CA        string   `yaml:"ca"`        // PEM file: who vouches for a tcp:// daemon
	Cert      string   `yaml:"cert"`      // PEM file: our certificate
	Key       string   `yaml:"key"`       // PEM file: its key
}

// Registry says how a registry is reached.
type Registry struct {
	Mirrors     []string `yaml:"mirrors"`     // asked for base images first, in this order: hosts, or URLs whose path goes before the repository's
	CA          string   `yaml:"ca"`          // PEM file: who vouches for it, besides the system's authorities
	Credentials string   `yaml:"credentials"` // file in the form of Docker's config.json or of containers-auth.json
	PlainHTTP   bool     `yaml:"plain_http"`  // it speaks http
	Insecure    bool     `yaml:"insecure"`    // it may have a certificate that nobody vouches for, or speak http
}

// Find gives the path of the file that counts: the explicit one, if any, which has to be there; otherwise the user's or, if there is
// none, the machine's; "" when there is none at all.
func Find(explicit string, lookupEnv func(string) (string, bool)) (string, error) {
	if explicit != "" {
		path, err := filepath.Abs(explicit)
		if err != nil {
			return "", fault.New(fault.Invalid, "configuration file %s: %w", explicit, err)
		}
		return path, nil
	}
	for _, path := range []string{userPath(lookupEnv), SystemPath} {
		if path == "" {
			continue
		}
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", nil
}

// userPath is where the user's own file is, by the XDG Base Directory Specification.
func userPath(lookupEnv func(string) (string, bool)) string {
	dir, _ := lookupEnv("XDG_CONFIG_HOME")
	if !filepath.IsAbs(dir) { // which the specification wants to be ignored
		home, _ := lookupEnv("HOME")
		if home == "" {
			return ""
		}
		dir = filepath.Join(home, ".config")
	}
	return filepath.Join(dir, "image-builder", "config.yaml")
}

// Load reads a file. An empty path is an empty file. What is wrong with the file is an Invalid fault with line and column.
func Load(path string) (*File, error) {
	if path == "" {
		return &File{}, nil
	}
	data, err := content(path)
	if err != nil {
		return nil, err
	}
	return parse(path, data)
}

func content(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fault.New(fault.Invalid, "configuration: %w", err)
	}
	defer func() { _ = file.Close() }()
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, fault.New(fault.Invalid, "configuration: %w", err)
	}
	if len(data) > maxFile {
		return nil, fault.New(fault.Invalid, "configuration %s: larger than %d bytes", path, maxFile)
	}
	return data, nil
}

func parse(path string, data []byte) (*File, error) {
	f, err := decode(path, data)
	if err != nil {
		return nil, err
	}
	if problems := f.validate(); len(problems) > 0 {
		return nil, fault.InvalidInput("configuration "+path, problems)
	}
	return f, nil
}

// decode reads a file and leaves open whether what it says makes sense.
func decode(path string, data []byte) (_ *File, err error) {
	defer func() {
		if p := recover(); p != nil { // a defect of the parser
			err = fault.New(fault.Invalid, "configuration %s: not valid YAML", path)
		}
	}()
	f := &File{path: path}
	decoder := yaml.NewDecoder(bytes.NewReader(data), yaml.Strict())
	if err := decoder.Decode(f); err != nil && !errors.Is(err, io.EOF) {
		return nil, fault.New(fault.Invalid, "configuration %s", at(path, err)).
			WithHint("docs/configuration.md describes each field")
	}
	f.path = path
	var second any
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, fault.New(fault.Invalid, "configuration %s: there is a second document", path)
	}
	f.absolute()
	return f, nil
}

// at puts file, line and column in front of an error of the parser.
func at(path string, err error) string {
	var located yaml.Error
	if !errors.As(err, &located) {
		return path + ": " + err.Error()
	}
	if t := located.GetToken(); t != nil && t.Position != nil {
		path = fmt.Sprintf("%s:%d:%d", path, t.Position.Line, t.Position.Column)
	}
	return path + ": " + located.GetMessage()
}

// Path is where the file is, "" when there is none.
func (f *File) Path() string { return f.path }

// Flags are the values that the file has for flags of the command line, by name.
func (f *File) Flags() map[string]string {
	all := map[string]string{
		"engine": f.Engine, "buildkit-host": f.BuildKit.Host, "buildkit-ca": f.BuildKit.CA, "buildkit-cert": f.BuildKit.Cert,
		"buildkit-key": f.BuildKit.Key, "state-dir": f.StateDir, "cache-dir": f.CacheDir,
		"engine-idle": f.EngineIdle, "engine-cache-cap": f.EngineCacheCap,
	}
	if f.Parallel != 0 {
		all["parallel"] = strconv.Itoa(f.Parallel)
	}
	for name, value := range all {
		if value == "" {
			delete(all, name)
		}
	}
	return all
}

// Fields are the names that the file has for flags, for errors.
func Fields() map[string]string {
	return map[string]string{
		"engine": "engine", "buildkit-host": "buildkit.host", "buildkit-ca": "buildkit.ca", "buildkit-cert": "buildkit.cert",
		"buildkit-key": "buildkit.key", "state-dir": "state_dir", "cache-dir": "cache_dir",
		"engine-idle": "engine_idle", "engine-cache-cap": "engine_cache_cap", "parallel": "parallel",
	}
}

// RegistrySettings are the registries as the plugin takes them.
func (f *File) RegistrySettings() map[string]result.RegistrySettings {
	if len(f.Registries) == 0 {
		return nil
	}
	all := map[string]result.RegistrySettings{}
	for host, r := range f.Registries {
		all[host] = result.RegistrySettings(r)
	}
	return all
}

// absolute makes paths absolute: they are relative to the folder of the file.
func (f *File) absolute() {
	paths := []*string{&f.BuildKit.CA, &f.BuildKit.Cert, &f.BuildKit.Key, &f.StateDir, &f.CacheDir}
	for i := range f.Nodes {
		paths = append(paths, &f.Nodes[i].CA, &f.Nodes[i].Cert, &f.Nodes[i].Key)
	}
	for host, r := range f.Registries {
		for _, p := range []*string{&r.CA, &r.Credentials} {
			*p = f.resolve(*p)
		}
		f.Registries[host] = r
	}
	for _, p := range paths {
		*p = f.resolve(*p)
	}
}

func (f *File) resolve(path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(f.path), path)
}

// checkIdle tells whether a text is a time as engine_idle takes it.
func checkIdle(text string) error {
	d, err := time.ParseDuration(text)
	switch {
	case text == "":
		return nil
	case err != nil:
		return errors.New("it is a time, as 90s or 5m")
	case d < 0:
		return errors.New("it is negative")
	}
	return nil
}
