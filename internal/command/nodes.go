package command

import (
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
)

// nodeExample is shown by help and by errors.
const nodeExample = "linux/arm64=tcp://builder-arm:1234"

// nodesFlag is --node: PLATFORM[,PLATFORM…]=ADDRESS. It can be given several times; an environment variable has several nodes
// with spaces between them.
type nodesFlag []result.Node

// Set adds nodes.
func (n *nodesFlag) Set(text string) error {
	entries := strings.Fields(text)
	if len(entries) == 0 {
		return fmt.Errorf("it is PLATFORM=ADDRESS, as %s", nodeExample)
	}
	for _, entry := range entries {
		node, err := parseNode(entry)
		if err != nil {
			return err
		}
		*n = append(*n, node)
	}
	return nil
}

// String is the flag's value as it is given.
func (n *nodesFlag) String() string {
	entries := make([]string, len(*n))
	for i, node := range *n {
		entries[i] = strings.Join(node.Platforms, ",") + "=" + node.Address
	}
	return strings.Join(entries, " ")
}

// Type is what help shows as the flag's value.
func (n *nodesFlag) Type() string { return "node" }

func parseNode(entry string) (result.Node, error) {
	names, address, ok := strings.Cut(entry, "=")
	if !ok || names == "" || address == "" {
		return result.Node{}, fmt.Errorf("it is PLATFORM=ADDRESS, as %s", nodeExample)
	}
	var node result.Node
	for _, name := range strings.Split(names, ",") {
		p, err := buildparams.NormalPlatform(name)
		if err != nil {
			return result.Node{}, fmt.Errorf("%q %w", name, err)
		}
		if !slices.Contains(node.Platforms, p) {
			node.Platforms = append(node.Platforms, p)
		}
	}
	node.Address = address
	return node, checkAddress(address)
}

// checkAddress refuses what BuildKit's client would refuse later, or would wait for in vain.
func checkAddress(address string) error {
	u, err := url.Parse(address)
	if err != nil || !strings.Contains(address, "://") {
		return fmt.Errorf("%q has no scheme; tcp://%s may be meant", address, address)
	}
	switch u.Scheme {
	case "unix":
		if u.Path == "" || u.Host != "" {
			return fmt.Errorf("%q names no socket, as unix:///run/buildkit/buildkitd.sock does", address)
		}
	case "tcp":
		if u.Hostname() == "" || u.Port() == "" {
			return fmt.Errorf("%q needs a host and a port, as tcp://builder-arm:1234", address)
		}
	case "docker-container", "kube-pod", "podman-container", "ssh":
		if u.Host == "" {
			return fmt.Errorf("%q names nothing after %s://", address, u.Scheme)
		}
	default:
		return fmt.Errorf("%q is no address of a BuildKit daemon: it begins with unix, tcp, ssh, docker-container, podman-container or kube-pod, and ://", address)
	}
	return nil
}

// nodeFlags are the flags about nodes.
type nodeFlags struct {
	nodes         nodesFlag
	ca, cert, key string
}

func (n *nodeFlags) add(flags *pflag.FlagSet) {
	flags.Var(&n.nodes, "node", "`PLATFORM,…=ADDRESS` of a BuildKit daemon that builds these platforms, as "+nodeExample+
		"; can be given several times; what no node claims is built by the engine")
	flags.StringVar(&n.ca, "node-ca", "", "PEM `FILE` with who vouches for tcp:// nodes")
	flags.StringVar(&n.cert, "node-cert", "", "PEM `FILE` with our certificate for them")
	flags.StringVar(&n.key, "node-key", "", "PEM `FILE` with the certificate's key")
	for flag, variable := range map[string]string{
		"node":      "IMAGE_BUILDER_NODES",
		"node-ca":   "IMAGE_BUILDER_NODE_CA",
		"node-cert": "IMAGE_BUILDER_NODE_CERT",
		"node-key":  "IMAGE_BUILDER_NODE_KEY",
	} {
		Environment(flags, flag, variable)
	}
}

// settings are the nodes for the plugin. TLS is for those that are reached by tcp; all have the same certificates.
func (n *nodeFlags) settings() ([]result.Node, error) {
	if (n.cert == "") != (n.key == "") {
		return nil, fault.New(fault.Invalid, "--node-cert and --node-key go together")
	}
	files := [3]string{n.ca, n.cert, n.key}
	for i, path := range files {
		if path == "" {
			continue
		}
		absolute, err := filepath.Abs(path)
		if err != nil {
			return nil, fault.New(fault.Invalid, "%s: %w", path, err)
		}
		files[i] = absolute
	}
	nodes := slices.Clone(n.nodes)
	for i := range nodes {
		if strings.HasPrefix(nodes[i].Address, "tcp://") {
			nodes[i].CA, nodes[i].Cert, nodes[i].Key = files[0], files[1], files[2]
		}
	}
	return nodes, nil
}
