package web_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// plugin is the real plugin, built once, for the tests with a real worker.
var plugin struct {
	sync.Once
	folder string
	err    error
}

// pluginPath is the plugin's executable.
func pluginPath() (string, error) {
	plugin.Do(func() {
		if plugin.folder, plugin.err = os.MkdirTemp("", "web-test-*"); plugin.err != nil {
			return
		}
		build := exec.Command("go", "build", "-o", filepath.Join(plugin.folder, "image-builder-plugin"), "imagebuilder/cmd/image-builder-plugin")
		if out, err := build.CombinedOutput(); err != nil {
			plugin.err = fmt.Errorf("go build: %w\n%s", err, out)
		}
	})
	return filepath.Join(plugin.folder, "image-builder-plugin"), plugin.err
}

func removePlugin() {
	if plugin.folder != "" {
		_ = os.RemoveAll(plugin.folder)
	}
}

// planner answers every document with the same plan.
func planner(plan json.RawMessage) func(context.Context, []byte) (json.RawMessage, error) {
	return func(context.Context, []byte) (json.RawMessage, error) { return plan, nil }
}
