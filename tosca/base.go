package tosca

// builtFrom is the relationship of an image to the one that it stands on.
const builtFrom = "imagebuilder.relationships.BuiltFrom"

// Inputs of an image's create by which it gets the exact digest of what it stands on. Opera has no way to give them
// without taking every such image for changed each time; the plugin looks the tag up then.
const (
	baseTarget = "base_target"
	baseImages = "base_images"
	baseRef    = "base_ref"
)

// pinBase adds which image another node has just pushed to the inputs of the node that is built on it.
func (r *run) pinBase(n *Node, inputs map[string]any, results map[string]map[string]*Value) {
	for _, req := range n.requirements {
		if !req.relationship.isA(builtFrom) {
			continue
		}
		base := results[req.node.name]
		if images := base["images"]; inputs[baseTarget] != nil && !images.empty() {
			inputs[baseImages] = images.Any()
			continue
		}
		if ref := base["image_ref"]; !ref.empty() {
			inputs[baseRef] = ref.Any()
		}
	}
}
