//go:build blueprints

package blueprints_test

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

// TestOpenStackTemplates: Puccini, which takes TOSCA by its word, and each version of opera accept the templates with the inputs beside them.
func TestOpenStackTemplates(t *testing.T) {
	t.Parallel()
	for template, inputs := range map[string]string{
		"service.yaml": "inputs.yaml", "workers.yaml": "inputs-workers.yaml", "backup.yaml": "inputs-database.yaml", "restore.yaml": "inputs-database.yaml",
	} {
		t.Run(template, func(t *testing.T) {
			t.Parallel()
			folder := filepath.Join(root, "blueprints", "openstack")
			// Without constraints: it looks for attributes of a requirement's target in the relationship.
			puccini := exec.CommandContext(t.Context(), filepath.Join(root, ".work", "tools", "puccini-tosca"), "validate", "--colorize=false", "--coerce=false", "--inputs", inputs, template)
			puccini.Dir = folder
			out, err := puccini.CombinedOutput()
			require.NoError(t, err, "%s; scripts/setup.sh puccini makes it", out)
			for _, version := range testbed.Operas(t, false) {
				p := newProject(t, version, "openstack")
				p.opera(t, "validate", "-i", inputs, template)
			}
		})
	}
}
