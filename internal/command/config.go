package command

import (
	"strings"

	"github.com/spf13/pflag"

	"imagebuilder/internal/config"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
)

// configFlagName is the flag that names the configuration file.
const configFlagName = "config"

// configFlag is that flag, and what the file says once it has been read.
type configFlag struct {
	path string
	file *config.File
}

func (c *configFlag) add(flags *pflag.FlagSet) {
	flags.Var(c, configFlagName, "configuration `FILE` (YAML); by default ~/.config/image-builder/config.yaml, then "+config.SystemPath)
	Environment(flags, configFlagName, config.EnvironmentVariable)
}

// Set takes a path.
func (c *configFlag) Set(path string) error {
	c.path = path
	return nil
}

// String is the path.
func (c *configFlag) String() string { return c.path }

// Type is what help shows as the flag's value.
func (c *configFlag) Type() string { return "file" }

// fromConfig gives flags the values of the configuration file, for commands that have one. Those of the command line stay; the
// Environment's come after and replace the file's.
func (a *App) fromConfig(flags *pflag.FlagSet) error {
	f := flags.Lookup(configFlagName)
	if f == nil {
		return nil
	}
	c := f.Value.(*configFlag)
	explicit := c.path
	if !f.Changed {
		explicit, _ = a.LookupEnv(config.EnvironmentVariable)
	}
	path, err := config.Find(explicit, a.LookupEnv)
	if err != nil {
		return err
	}
	if c.file, err = config.Load(path); err != nil {
		return err
	}
	fields := config.Fields()
	for name, value := range c.file.Flags() {
		flag := flags.Lookup(name)
		if flag == nil || flag.Changed {
			continue
		}
		if err := flag.Value.Set(value); err != nil {
			return fault.New(fault.Invalid, "configuration %s: %s: invalid value %q: %w", path, fields[name], value, err)
		}
	}
	return nil
}

// apply adds to the settings what no flag can say.
func (c *configFlag) apply(s *result.Settings) error {
	if c.file == nil {
		return nil
	}
	s.Registries = c.file.RegistrySettings()
	if len(s.Nodes) > 0 {
		return nil // the command line's, or the environment's
	}
	for i, n := range c.file.Nodes {
		node, err := parseNode(strings.Join(n.Platforms, ",") + "=" + n.Address)
		if err != nil {
			return fault.New(fault.Invalid, "configuration %s: nodes[%d]: %w", c.file.Path(), i, err)
		}
		node.CA, node.Cert, node.Key = n.CA, n.Cert, n.Key
		s.Nodes = append(s.Nodes, node)
	}
	return nil
}
