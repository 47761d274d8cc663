// Command image-builder-api is the REST service that builds images. See internal/apicli.
package main

import (
	"context"
	"os"

	"imagebuilder/internal/apicli"
	"imagebuilder/internal/command"
)

// version is set by the linker: -X main.version=v1.2.3.
var version = "dev"

func main() {
	os.Exit(apicli.Main(context.Background(), command.Process(), os.Args[1:], version))
}
