// Supervisor is the managed engine's supervisor alone, for tests; image-builder-plugin has it built in.
package main

import (
	"context"
	"os"

	"imagebuilder/internal/engine/managed"
)

func main() { os.Exit(managed.Supervise(context.Background(), os.Args[1:])) }
