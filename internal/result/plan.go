package result

// PushAllowed is PlanImage.Push when the registry lets these credentials push there.
const PushAllowed = "allowed"

// Plan is what the plan of create returns: what would be built from what, and where it would go.
type Plan struct {
	Source PlanSource  `json:"source"`
	Images []PlanImage `json:"images"` // in the order of the document
	Engine string      `json:"engine"` // that would be used: buildkit, docker or managed
}

// PlanSource is what would be built, resolved.
type PlanSource struct {
	URL        string `json:"url,omitempty"`    // of the repository or the Dockerfile, without credentials
	Commit     string `json:"commit,omitempty"` // full id; absent when no repository is involved
	Dockerfile string `json:"dockerfile"`       // path in the repository, or the Dockerfile's URL
}

// PlanImage is one variant.
type PlanImage struct {
	Ref       string     `json:"ref"` // registry/repository:tag
	Platforms []string   `json:"platforms"`
	Stage     string     `json:"stage,omitempty"` // absent when it is the last
	Bases     []PlanBase `json:"bases,omitempty"`
	// Nodes are the addresses of the nodes that would build a platform, by platform. What is not here, the engine builds.
	Nodes map[string]string `json:"nodes,omitempty"`
	Push  string            `json:"push"` // PushAllowed; a plan whose push is refused is an error
}

// PlanBase is a base image that the variant would stand on, or that a stage of it would.
type PlanBase struct {
	From     string `json:"from"`             // as the Dockerfile names it, arguments expanded
	Ref      string `json:"ref"`              // what would be used
	Digest   string `json:"digest,omitempty"` // of the index, or of the manifest where there is no index
	Replaced bool   `json:"replaced"`         // whether base or bases of the document put Ref in the place of From
}
