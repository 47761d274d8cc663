// Command image-builder builds container images from one document and pushes them. See internal/cli.
package main

import (
	"context"
	"os"

	"imagebuilder/internal/cli"
)

// version is set by the linker: -X main.version=v1.2.3.
var version = "dev"

func main() { os.Exit(cli.Main(context.Background(), cli.Process(), os.Args[1:], version)) }
