package cli

import (
	"context"
	"fmt"

	"imagebuilder/internal/fault"
	"imagebuilder/plugin"
)

// startPlugin starts the plugin that performs an operation. The caller ends it with closePlugin.
func (a *app) startPlugin(ctx context.Context, explicit, nodeType, operation string) (*plugin.Client, error) {
	// Nearly always it is the one beside us, and reading the folders of PATH takes milliseconds.
	if dir, err := a.PluginDir(); err == nil && explicit == "" {
		if own, err := plugin.Find(dir, "", ""); err == nil {
			if client, err := plugin.FindFor(ctx, own, nodeType, operation, plugin.Options{}); err == nil {
				return client, nil
			}
		}
	}
	paths, err := a.FindPlugins(explicit)
	if err != nil {
		return nil, err
	}
	return plugin.FindFor(ctx, paths, nodeType, operation, plugin.Options{})
}

// pluginAhead starts a plugin while something else is done: its start takes as long as reading a document. Who calls it calls
// the function that it gives, which waits for the plugin, and afterwards abandon, which ends a plugin that nobody has waited for.
func (a *app) pluginAhead(ctx context.Context, explicit, nodeType, operation string) (wait func() (*plugin.Client, error), abandon func()) {
	ctx, cancel := context.WithCancel(ctx)
	type started struct {
		client *plugin.Client
		err    error
	}
	done := make(chan started, 1)
	go func() {
		client, err := a.startPlugin(ctx, explicit, nodeType, operation)
		done <- started{client, err}
	}()
	taken := false
	return func() (*plugin.Client, error) {
			taken = true
			s := <-done
			return s.client, s.err
		}, func() {
			cancel()
			if taken {
				return
			}
			if s := <-done; s.client != nil {
				a.closePlugin(s.client)
			}
		}
}

// closePlugin ends a plugin. What it leaves behind is told, but changes nothing about what was done.
func (a *app) closePlugin(client *plugin.Client) {
	if err := client.Close(); err != nil {
		fmt.Fprintf(a.Err, "warning: %s\n", fault.As(err).Message)
	}
}

// pluginVersion is the version of the plugin that would be used, and nil when there is none.
func (a *app) pluginVersion(ctx context.Context, explicit string) *pluginVersion {
	paths, err := a.FindPlugins(explicit)
	if err != nil && explicit == "" {
		return nil
	}
	if err != nil {
		return &pluginVersion{Path: explicit, Error: err.Error()}
	}
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	client, err := plugin.Start(ctx, paths[0], plugin.Options{})
	if err != nil {
		return &pluginVersion{Path: paths[0], Error: err.Error()}
	}
	defer a.closePlugin(client)
	d, err := client.Describe(ctx)
	if err != nil {
		return &pluginVersion{Path: paths[0], Error: err.Error()}
	}
	return &pluginVersion{Path: paths[0], Name: d.Name, Version: d.Version}
}
