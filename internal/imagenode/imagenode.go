// Package imagenode is what an image node of a TOSCA template means to the plugin: it makes a plugin's request of an
// operation and its inputs, and the node's attributes of the plugin's answer. Both hosts of such templates go through
// it, the command `image-builder lifecycle`, which opera's playbook runs, and our own, so that a node
// means the same on both.
//
// It starts nothing and talks to nobody.
package imagenode

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"

	"imagebuilder/internal/fault"
	"imagebuilder/plugin"
)

// NodeType is the type of image nodes, in templates and at the plugin; types derived from it are the same to the plugin.
const NodeType = "imagebuilder.nodes.Image"

// derivedType is an image node that stands on another one.
const derivedType = "imagebuilder.nodes.DerivedImage"

// Operations of an image node. At the plugin rebuild is create that is forced.
const (
	Create  = "create"
	Rebuild = "rebuild"
	Verify  = "verify"
	Delete  = "delete"
)

// Operations are the names of all.
func Operations() []string { return []string{Create, Rebuild, Verify, Delete} }

// Operation is one operation of one node.
type Operation struct {
	Node     string          // its name in the template
	NodeType string          // "" is NodeType
	Name     string          // Create, Rebuild, Verify or Delete
	Folder   string          // where the deployment was started, absolute: relative paths start there
	Host     string          // name of this machine; "" asks the system
	Inputs   json.RawMessage // of the operation, a JSON object; what is null, "", {} or [] counts as absent
	Settings json.RawMessage // how to build, as result.Settings; may be empty
}

// Request makes the plugin's request of an operation. An error, of kind Invalid, has everything that is wrong with the
// inputs, with JSON pointers into them.
func Request(op Operation) (plugin.Request, error) {
	if !slices.Contains(Operations(), op.Name) {
		return plugin.Request{}, fault.New(fault.Invalid, "image nodes have no operation %q", op.Name).
			WithHint("they have %s, %s, %s and %s", Create, Rebuild, Verify, Delete)
	}
	if op.NodeType != "" && op.NodeType != NodeType && op.NodeType != derivedType {
		return plugin.Request{}, fault.New(fault.Invalid, "%q is not the type of an image node", op.NodeType).
			WithHint("it is %s or %s", NodeType, derivedType)
	}
	if op.Node == "" {
		return plugin.Request{}, fault.New(fault.Invalid, "%s: the node has no name", op.Name)
	}
	if !filepath.IsAbs(op.Folder) {
		return plugin.Request{}, fault.New(fault.Invalid, "%s %s: the deployment's folder %q is not absolute", op.Name, op.Node, op.Folder)
	}
	in, err := readInputs(op)
	if err != nil {
		return plugin.Request{}, err
	}
	settings, err := in.settings(op)
	if err != nil {
		return plugin.Request{}, err
	}
	request := plugin.Request{NodeType: NodeType, Operation: op.Name, Settings: settings, WorkDir: op.Folder}
	if op.Name == Rebuild {
		request.Operation = Create
	}
	request.Inputs, err = in.forPlugin(op)
	return request, err
}

// ownerLength is as much of a hash as is kept, in hexadecimal digits: 128 bits, which nobody meets by chance.
const ownerLength = 32

// Owner names whose images a node's are: a node of one deployment and of no other. The deployment is what the owner
// input says, or the name of the machine and the folder in which it was started.
func Owner(node string, deployment ...string) string {
	text, err := json.Marshal(append(slices.Clone(deployment), node))
	if err != nil {
		return "" // texts always have a JSON form
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])[:ownerLength]
}

// owner is the owner of an operation's node.
func (in *inputs) owner(op Operation) (string, error) {
	if in.deployment != "" {
		return Owner(op.Node, in.deployment), nil
	}
	host := op.Host
	if host == "" {
		var err error
		if host, err = os.Hostname(); err != nil {
			return "", fault.New(fault.Unavailable, "ask for the name of this machine: %w", err).WithHint("give the node an owner")
		}
	}
	folder := op.Folder
	if real, err := filepath.EvalSymlinks(folder); err == nil {
		folder = real // one folder by two ways is one deployment
	}
	return Owner(op.Node, host, filepath.Clean(folder)), nil
}
