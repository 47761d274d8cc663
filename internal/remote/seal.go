package remote

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
	"imagebuilder/internal/secret"
	"imagebuilder/plugin"
)

// operationCreate is the plugin's operation whose inputs are a whole document; the others have a target.
const operationCreate = "create"

// sealed is a request that names nothing of this machine: it has what its references stand for, and where it names files of this
// machine otherwise, it is refused.
func sealed(request plugin.Request) (plugin.Request, error) {
	doc, err := documentOf(request)
	if err != nil {
		return plugin.Request{}, err
	}
	var settings result.Settings
	if len(request.Settings) > 0 {
		if err := json.Unmarshal(request.Settings, &settings); err != nil {
			return plugin.Request{}, fault.New(fault.Invalid, "settings: %w", err)
		}
	}
	if err := fault.InvalidInput("build on another machine", localPaths(doc)); err != nil {
		return plugin.Request{}, err
	}
	here := secret.Host(request.WorkDir)
	here.Found = secret.Table{}
	if _, err := buildparams.Resolve(doc, here); err != nil {
		return plugin.Request{}, err
	}
	settings.References = here.Found
	if request.Settings, err = json.Marshal(settings); err != nil {
		return plugin.Request{}, fault.New(fault.Internal, "encode the settings: %w", err)
	}
	request.WorkDir = "/" // nothing is relative to it any more
	return request, nil
}

// documentOf is what a request's inputs say; of operations on tags, a document with nothing but a target.
func documentOf(request plugin.Request) (*buildparams.Document, error) {
	if request.Operation == operationCreate {
		return buildparams.Decode(request.Inputs, "build_params.json")
	}
	var inputs struct {
		Target json.RawMessage `json:"target"`
	}
	if err := json.Unmarshal(request.Inputs, &inputs); err != nil {
		return nil, fault.New(fault.Internal, "read the inputs of %s: %w", request.Operation, err)
	}
	target, err := buildparams.DecodeTarget(inputs.Target, "target")
	if err != nil {
		return nil, err
	}
	return &buildparams.Document{Target: *target}, nil
}

// localPaths are the places in a document that name files of this machine which the server cannot read.
func localPaths(doc *buildparams.Document) (problems []fault.Problem) {
	refuse := func(pointer, path, hint string) {
		if path != "" {
			problems = append(problems, fault.Problem{Pointer: pointer, Message: path + " is on this machine, and the build runs on another one", Hint: hint})
		}
	}
	const repository = "give a repository that the server can fetch"
	if g := doc.Source.GitRepo; g != nil {
		refuse("/source/git_repo/url", fileURL(g.URL), repository)
	}
	if f := doc.Source.Dockerfile; f != nil {
		refuse("/source/dockerfile/url", fileURL(f.URL), "give a URL that the server can fetch, or a git_repo")
	}
	if c := doc.Source.BuildContext; c != nil {
		refuse("/source/build_context/url", fileURL(c.URL), repository)
		refuse("/source/build_context/path", c.Path, "give a repository by url")
	}
	return problems
}

// fileURL is a URL of a file, and "" for every other.
func fileURL(url string) string {
	if strings.HasPrefix(strings.ToLower(url), "file:") {
		return url
	}
	return ""
}

// WorkFolderProblem says why a custom_workdir cannot be one on another machine, or nil.
func WorkFolderProblem(inputs json.RawMessage) error {
	var given struct {
		WorkFolder string `json:"custom_workdir"`
	}
	if json.Unmarshal(inputs, &given) != nil || given.WorkFolder == "" || filepath.IsAbs(given.WorkFolder) {
		return nil // what else is wrong with the inputs is said elsewhere
	}
	return fault.InvalidInput("build on another machine", []fault.Problem{{
		Pointer: "/custom_workdir", Message: "is relative, and names a folder on the server", Hint: "write the whole path",
	}})
}

// onServer are the settings of a server, with what a request says about its own.
func onServer(own result.Settings, request plugin.Request) (plugin.Request, error) {
	var given result.Settings
	if err := json.Unmarshal(request.Settings, &given); err != nil {
		return plugin.Request{}, fault.New(fault.Invalid, "settings: %w", err)
	}
	own.Force, own.Owner, own.WorkFolder, own.References = given.Force, given.Owner, given.WorkFolder, given.References
	for host, site := range given.Registries {
		if own.Registries == nil {
			own.Registries = map[string]result.RegistrySettings{}
		}
		merged := own.Registries[host]
		merged.PlainHTTP, merged.Insecure = merged.PlainHTTP || site.PlainHTTP, merged.Insecure || site.Insecure
		own.Registries[host] = merged
	}
	var err error
	if request.Settings, err = json.Marshal(own); err != nil {
		return plugin.Request{}, fault.New(fault.Internal, "encode the settings: %w", err)
	}
	return request, nil
}

// Variables of the orchestrator that say how a server builds, and the flags that they become there. All else is the server's own:
// its environment and its configuration file.
func settingVariables() map[string]string {
	return map[string]string{
		"IMAGE_BUILDER_REMOTE_ENGINE":        "engine",
		"IMAGE_BUILDER_REMOTE_BUILDKIT_HOST": "buildkit-host",
		"IMAGE_BUILDER_REMOTE_DOCKER_HOST":   "docker-host",
		"IMAGE_BUILDER_REMOTE_STATE_DIR":     "state-dir",
		"IMAGE_BUILDER_REMOTE_CACHE_DIR":     "cache-dir",
		"IMAGE_BUILDER_REMOTE_PARALLEL":      "parallel",
		"IMAGE_BUILDER_REMOTE_CONFIG":        "config",
	}
}

// Flags are those for the command on the server, by variables of this machine.
func Flags(lookupEnv func(string) (string, bool)) []string {
	var flags []string
	for variable, flag := range settingVariables() {
		if value, _ := lookupEnv(variable); value != "" {
			flags = append(flags, "--"+flag+"="+value)
		}
	}
	slices.Sort(flags)
	return flags
}
