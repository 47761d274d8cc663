package tosca_test

import (
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/imagenode"
	"imagebuilder/schemas"
	"imagebuilder/tosca"
)

// TestOurTemplates: the templates of this folder are in order, and so are the inputs that come with them.
func TestOurTemplates(t *testing.T) {
	t.Parallel()
	for template, file := range map[string]string{"docker_image_definition.yaml": "inputs.yaml", "image_graph.yaml": "inputs_graph.yaml"} {
		read, err := tosca.Read(template)
		require.NoError(t, err)
		_, err = read.Bind(nil)
		require.NoError(t, err, "without inputs")
		inputs, err := tosca.LoadInputs(file)
		require.NoError(t, err)
		top, err := read.Bind(inputs)
		require.NoError(t, err)
		require.NoError(t, top.Check(request))
	}
}

// TestDocumentsAreInputs: every document of build_params that comes with image-builder is inputs of the template as it stands.
func TestDocumentsAreInputs(t *testing.T) {
	t.Parallel()
	read, err := tosca.Read("docker_image_definition.yaml")
	require.NoError(t, err)
	documents := 0
	require.NoError(t, fs.WalkDir(schemas.Examples(), ".", func(path string, d fs.DirEntry, err error) error {
		folder := strings.SplitN(path, "/", 2)[0]
		if err != nil || d.IsDir() || (folder != "json" && folder != "yaml" && folder != "annotated") {
			return err
		}
		documents++
		data, err := fs.ReadFile(schemas.Examples(), path)
		require.NoError(t, err)
		inputs, err := tosca.ReadInputs(data, path)
		require.NoError(t, err)
		top, err := read.Bind(inputs)
		require.NoError(t, err)
		require.NoError(t, top.Check(request))
		return nil
	}))
	require.Greater(t, documents, 10)
}

// request checks a job as the command line does.
func request(job tosca.Job) error {
	folder, err := filepath.Abs(".")
	if err != nil {
		return err
	}
	_, err = imagenode.Request(imagenode.Operation{
		Node: job.Node, NodeType: job.Type, Name: job.Operation, Folder: folder, Host: "here", Inputs: job.Inputs,
	})
	return err
}
