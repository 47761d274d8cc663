// Command image-builder-plugin performs the lifecycle operations of image nodes. A host starts it; see package plugin.
package main

import (
	"context"
	"os"
	"runtime/debug"

	"imagebuilder/internal/engine/managed"
	"imagebuilder/internal/lifecycle"
	"imagebuilder/plugin"
)

var version = "dev" // set by the linker

// garbagePercent is as in image-builder itself. A build's heap stays under 20 MB, whatever the size of its context.
const garbagePercent = 400

func main() {
	if len(os.Args) > 1 && os.Args[1] == lifecycle.SupervisorCommand {
		os.Exit(managed.Supervise(context.Background(), os.Args[2:]))
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent)
	}
	plugin.Serve(lifecycle.New(version))
}
