//go:build blueprints && linux

package deployment_test

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

// TestTypes: a template with a node of each type is valid TOSCA to Puccini, and to each version of opera.
func TestTypes(t *testing.T) {
	t.Parallel()
	container := map[string]any{
		"name": "web", "image": "web:1", "archive": "web.tar", "networks": []string{"net"}, "ports": []string{"127.0.0.1:1:1"}, "volumes": []string{"data:/data"},
		"env": map[string]string{"A": "b"}, "more_env": map[string]string{"C": "d"}, "secrets": map[string]string{"password": "env:PASSWORD"}, "command": []string{"serve"},
		"options": []string{"--init"}, "replicas": 2, "once": false, "health_timeout": 60, "stop_timeout": 60, "revision": "1", "owner": "me",
	}
	database := map[string]any{"container": "db", "database": "app", "user": "app", "file": "app.dump"}
	all := nodes{
		"net":         node("DockerNetwork", map[string]any{"name": "net", "subnet": "10.214.0.0/24", "internal": true, "owner": "me"}),
		"data":        node("DockerVolume", map[string]any{"name": "data", "removal": "delete", "owner": "me"}),
		"web":         node("Container", container, "net", "data"),
		"secrets":     node("Secrets", map[string]any{"image": "api:1", "archive": "api.tar", "rotation": "1", "removal": "delete", "owner": "me"}),
		"certificate": node("Certificate", map[string]any{"name": "web", "names": []string{"example.com"}, "country_name": "SI", "days": 90, "rotation": "1", "removal": "delete"}),
		"registry":    node("Registry", map[string]any{"name": "registry", "username": "someone", "certificate": "secrets/web.crt", "certificate_key": "secrets/web.key", "volume": "data"}, "certificate"),
		"backup":      node("DatabaseBackup", database),
		"restore":     node("DatabaseRestore", database, "backup"),
	}
	for _, version := range testbed.Operas(t, false) {
		p := newProject(t, version)
		p.template(t, all)
		p.opera(t, "validate", p.service)
	}
	p := newProject(t, testbed.Operas(t, false)[0])
	p.template(t, all)
	// With constraints it does not get through attributes of a requirement's target.
	out, err := exec.Command(filepath.Join(root, ".work", "tools", "puccini-tosca"), "validate", "--coerce=false", "--colorize=false", filepath.Join(p.folder, p.service)).CombinedOutput()
	require.NoError(t, err, "%.2000s; without it, `scripts/setup.sh puccini` makes it", out)
}
