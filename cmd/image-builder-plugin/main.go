// Command image-builder-plugin performs the lifecycle operations of image nodes. A host starts it; see package plugin.
package main

import (
	"context"
	"os"

	"imagebuilder/internal/engine/managed"
	"imagebuilder/internal/lifecycle"
	"imagebuilder/plugin"
)

var version = "dev" // set by the linker

func main() {
	if len(os.Args) > 1 && os.Args[1] == lifecycle.SupervisorCommand {
		os.Exit(managed.Supervise(context.Background(), os.Args[2:]))
	}
	plugin.Serve(lifecycle.New(version))
}
