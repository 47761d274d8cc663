package result

// Doctor is what the operation doctor returns: what this machine can do.
type Doctor struct {
	Engines []EngineReport `json:"engines"`         // in the order in which auto tries them
	Nodes   []EngineReport `json:"nodes,omitempty"` // of --node, each named by what it claims
	Checks  []Check        `json:"checks"`          // of what is needed besides: programs, folders, kernel
	Managed ManagedReport  `json:"managed"`
}

// EngineReport is one engine.
type EngineReport struct {
	Name      string           `json:"name"` // buildkit or managed
	Available bool             `json:"available"`
	Address   string           `json:"address,omitempty"` // where it listens
	Version   string           `json:"version,omitempty"`
	Platforms []PlatformReport `json:"platforms,omitempty"`
	Detail    string           `json:"detail,omitempty"` // why it is not available, or what else is to know
	Fix       string           `json:"fix,omitempty"`    // the command or the step that mends it
}

// PlatformReport is one platform of an engine.
type PlatformReport struct {
	Platform string `json:"platform"` // linux/arm/v7
	How      How    `json:"how"`
}

// How tells in which way a RUN of a platform is carried out.
type How string

// The ways. A platform with none can still be built when no step of its own runs there.
const (
	Native   How = "native"
	Emulated How = "emulated"
	None     How = "none"
)

// Check is one thing that was looked at.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
	Fix    string `json:"fix,omitempty"` // the command or the step that mends it
}

// ManagedReport is the state of the engine that image-builder starts itself.
type ManagedReport struct {
	Running   bool   `json:"running"`
	StateDir  string `json:"state_dir,omitempty"`
	DiskBytes int64  `json:"disk_bytes"` // what the state folder takes
	CapBytes  int64  `json:"cap_bytes"`  // the most that its build cache may take
}
