// Command image-builder builds container images from one document and pushes them. See internal/cli.
package main

import (
	"context"
	"os"
	"runtime/debug"

	"imagebuilder/internal/cli"
	"imagebuilder/internal/command"
)

// version is set by the linker: -X main.version=v1.2.3.
var version = "dev"

// garbagePercent lets the heap grow to 16 MB before it is collected for the first time: a run that finds nothing to do is over
// by then, and Go's own 4 MB would have cost it a tenth of its time.
const garbagePercent = 400

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent)
	}
	os.Exit(cli.Main(context.Background(), command.Process(), os.Args[1:], version))
}
