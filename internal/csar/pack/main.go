// Command pack writes a cloud service archive: "make csar" calls it.
//
//	pack [-version VERSION] [-o ARCHIVE] TEMPLATE
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"imagebuilder/internal/csar"
)

func main() {
	version := flag.String("version", "dev", "of image-builder, for the archive to name")
	output := flag.String("o", "image-builder.csar", "the archive to write")
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := pack(flag.Arg(0), *output, *version); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
	fmt.Println(*output)
}

func pack(template, output, version string) error {
	var archive bytes.Buffer // whole or not at all
	if err := csar.Write(&archive, os.DirFS(filepath.Dir(template)), filepath.Base(template), "image-builder "+version); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(output), 0o755); err != nil {
		return err
	}
	return os.WriteFile(output, archive.Bytes(), 0o644)
}
