// Command image-builder-api is the REST service that builds images. See internal/apicli.
package main

import (
	"context"
	"os"
	"runtime/debug"

	"imagebuilder/internal/apicli"
	"imagebuilder/internal/command"
)

// version is set by the linker: -X main.version=v1.2.3.
var version = "dev"

// garbagePercent spends memory for processor time: at some thousand requests a second, whose garbage is small, Go's own 100 percent
// collect a heap of 10 MB ten times a second.
const garbagePercent = 400

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent)
	}
	os.Exit(apicli.Main(context.Background(), command.Process(), os.Args[1:], version))
}
