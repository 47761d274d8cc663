// Command generate prints the TOSCA data types of build_params: scripts/generate.sh calls it.
package main

import (
	"fmt"
	"os"

	"imagebuilder/internal/datatypes"
	"imagebuilder/schemas"
)

func main() {
	out, err := datatypes.Derive(schemas.BuildParams())
	if err == nil {
		_, err = os.Stdout.Write(out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}
