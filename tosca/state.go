package tosca

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/gofrs/flock"

	"imagebuilder/internal/fault"
)

// StateFolder is the folder, in the one where a deployment is started, with what is known about it.
const StateFolder = ".image-builder"

const (
	stateFile = "state.json"
	lockFile  = "lock"

	folderMode = 0o700
	fileMode   = 0o600

	stateVersion = 1
)

// Status is how far a deployment is.
type Status string

// The states of a deployment.
const (
	NotDeployed Status = "not deployed"
	Deploying   Status = "deploying" // something runs, or was interrupted
	Deployed    Status = "deployed"
	Failed      Status = "failed"
	Undeploying Status = "undeploying"
)

// States of a node.
const (
	nodeRunning = "creating" // its operation runs, or was interrupted: what it makes may be there
	nodeDone    = "created"
	nodeFailed  = "failed"
)

// state is what is kept about a deployment. It holds no secret.
type state struct {
	Version  int            `json:"version"`
	Status   Status         `json:"status"`
	Template string         `json:"template"`         // absolute path
	Inputs   string         `json:"inputs,omitempty"` // absolute path; "" for none, or for standard input
	Round    int            `json:"round"`            // counts deployments that were not the rest of one that was interrupted
	Given    map[string]any `json:"given,omitempty"`  // the inputs, secrets masked
	Nodes    []*record      `json:"nodes,omitempty"`
	Outputs  map[string]any `json:"outputs,omitempty"`
}

// record is what is kept about a node.
type record struct {
	Name       string         `json:"name"`
	Type       string         `json:"type"`
	Plugin     string         `json:"plugin,omitempty"` // the plugin's node type
	Requires   []string       `json:"requires,omitempty"`
	State      string         `json:"state"`
	Round      int            `json:"round"`            // of State
	Inputs     string         `json:"inputs,omitempty"` // hash of the inputs of create, secrets masked
	Attributes map[string]any `json:"attributes,omitempty"`
	Delete     []*removal     `json:"delete,omitempty"` // how to take back what was made, the newest last
	Error      string         `json:"error,omitempty"`
}

// removal is the inputs of one delete operation.
type removal struct {
	Inputs  any      `json:"inputs"`            // secrets masked
	Secrets []string `json:"secrets,omitempty"` // JSON pointers to what was masked
}

// store is the folder with a deployment's state.
type store struct {
	folder string // that the deployment was started in
	lock   *flock.Flock
}

func (s *store) path(name string) string { return filepath.Join(s.folder, StateFolder, name) }

// open makes the folder and takes its lock: two at once must not work on one deployment. The error is of kind Unavailable
// when another process has it.
func openStore(folder string) (*store, error) {
	s := &store{folder: folder}
	dir := filepath.Join(folder, StateFolder)
	if err := os.MkdirAll(dir, folderMode); err != nil {
		return nil, fault.New(fault.Invalid, "make the folder %s: %w", dir, cause(err))
	}
	if err := os.Chmod(dir, folderMode); err != nil { // it may have been there
		return nil, fault.New(fault.Invalid, "make the folder %s private: %w", dir, cause(err))
	}
	s.lock = flock.New(s.path(lockFile), flock.SetPermissions(fileMode))
	got, err := s.lock.TryLock()
	switch {
	case err != nil:
		return nil, fault.New(fault.Unavailable, "lock %s: %w", s.path(lockFile), cause(err))
	case !got:
		who := ""
		if pid, err := os.ReadFile(s.path(lockFile)); err == nil && len(pid) > 0 {
			who = fmt.Sprintf(" (process %s)", strings.TrimSpace(string(pid)))
		}
		return nil, fault.New(fault.Unavailable, "another deploy or undeploy works in %s%s", folder, who).WithHint("wait until it is done")
	}
	_ = os.WriteFile(s.path(lockFile), []byte(strconv.Itoa(os.Getpid())+"\n"), fileMode) // for people, and not needed
	return s, nil
}

// close gives the lock back. The file stays: taking it away would let two have it.
func (s *store) close() { _ = s.lock.Unlock() }

// load reads the state; without one it is that of nothing.
func loadState(folder string) (*state, error) {
	path := filepath.Join(folder, StateFolder, stateFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &state{Version: stateVersion, Status: NotDeployed}, nil
	}
	st := &state{}
	if err == nil {
		err = unmarshal(data, st)
	}
	switch {
	case err != nil:
		return nil, fault.New(fault.Invalid, "read %s: %w", path, cause(err)).WithHint("if it cannot be mended, remove it: what was deployed then stays in the registry")
	case st.Version != stateVersion:
		return nil, fault.New(fault.Invalid, "read %s: it was written by another version of image-builder (its format is %d, this one has %d)", path, st.Version, stateVersion)
	}
	return st, nil
}

// save writes the state so that whoever reads it, also after the machine has lost its power, finds this state or the one
// before whole.
func (s *store) save(st *state) error {
	data, err := json.MarshalIndent(st, "", " ")
	if err != nil {
		return fault.New(fault.Internal, "encode the state: %w", err)
	}
	fail := func(err error) error {
		return fault.New(fault.Unavailable, "write %s: %w", s.path(stateFile), cause(err))
	}
	next := s.path(stateFile + ".new") // one name: what a killed process leaves is written over
	f, err := os.OpenFile(next, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, fileMode)
	if err != nil {
		return fail(err)
	}
	_, err = f.Write(append(data, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(next, s.path(stateFile))
	}
	if err != nil {
		return fail(err)
	}
	if dir, err := os.Open(filepath.Dir(next)); err == nil { // systems that cannot sync a folder need not
		_ = dir.Sync()
		_ = dir.Close()
	}
	return nil
}

// find gives the record of a node, nil where there is none.
func (st *state) find(name string) *record {
	i := slices.IndexFunc(st.Nodes, func(r *record) bool { return r.Name == name })
	if i < 0 {
		return nil
	}
	return st.Nodes[i]
}

// fingerprint tells inputs from others. Secrets do not count: a hash of one could be guessed.
func fingerprint(masked any) string {
	data, err := json.Marshal(masked)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
