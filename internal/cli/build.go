package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"imagebuilder/internal/cli/progress"
	"imagebuilder/internal/command"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
)

// buildOptions are the options of build.
type buildOptions struct {
	requestOptions
	dryRun     bool
	resultFile string
}

func (a *app) buildCommand() *cobra.Command {
	o := &buildOptions{}
	cmd := &cobra.Command{
		Use:   "build FILE",
		Short: "Build the images of a document, push them and check what the registry serves",
		Long: `Build the images that a build_params document describes, push them, and ask the registry for each of them:
only when it serves what was built is the build a success. A tag is moved only when its image is complete.
An image whose inputs are all those of the one that its tag names already is not built again: it is unchanged.

FILE is JSON or YAML; - is standard input. Relative paths in it are relative to the folder it stands in.
The result goes to standard output: digests, sizes, platforms, bases and the source's commit. When some of
the images fail, it says which, and the exit code tells why.`,
		Example: `  image-builder build build.yaml
  image-builder build build.yaml --set target.images[0].tag=v2 --result-file result.json
  image-builder build build.yaml --engine managed --engine-idle 1h
  image-builder build build.yaml --buildkit-host tcp://builder:1234 --buildkit-ca ca.pem
  image-builder build build.yaml --node linux/arm64,linux/arm/v7=tcp://builder-arm:1234 --node-ca ca.pem
  image-builder convert build.yaml | image-builder build - --output table`,
		Args:              command.Arguments(1, 1, "one document"),
		ValidArgsFunction: documents,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.file = args[0]
			if o.dryRun {
				return a.runPlan(cmd.Context(), &o.requestOptions)
			}
			return a.runBuild(cmd.Context(), o)
		},
	}
	o.addFlags(cmd)
	return cmd
}

// addFlags adds the flags of build to a command.
func (o *buildOptions) addFlags(cmd *cobra.Command) {
	o.add(cmd)
	cmd.Flags().BoolVar(&o.settings.Force, "force", false, "build also what has not changed since the image that the tag names was built")
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "show what would be built, as plan does, and build nothing")
	cmd.Flags().StringVar(&o.resultFile, "result-file", "", "also write the result, as JSON, to this `FILE`, whether or not all images could be built")
}

func (a *app) runBuild(ctx context.Context, o *buildOptions) error {
	began := a.Now()
	display, err := a.display(o.progress)
	if err != nil {
		return err
	}
	defer display.Close()
	wait, abandon := a.pluginAhead(ctx, o.settings.Plugin, imageNode, create)
	defer abandon()
	request, err := a.request(ctx, &o.requestOptions)
	if err != nil {
		return err
	}
	if err := canWrite(o.resultFile); err != nil {
		return err
	}
	client, err := wait()
	if err != nil {
		return err
	}
	defer a.closePlugin(client)
	raw, err := client.Execute(ctx, request, display.Emit)
	display.Close()
	if len(raw) == 0 {
		return err
	}
	if failed := a.deliver(o, raw); failed != nil && err == nil {
		err = failed
	}
	if display.Mode() != progress.JSON && o.output.resolve(a.Out) != formatTable {
		a.summary(raw, a.Now().Sub(began))
	}
	return err
}

// canWrite tells, before a long build, whether the result file's folder is there.
func canWrite(file string) error {
	if file == "" {
		return nil
	}
	info, err := os.Stat(filepath.Dir(file))
	if err == nil && !info.IsDir() {
		err = syscall.ENOTDIR
	}
	if err != nil {
		return fault.New(fault.Invalid, "write %s: %w", file, command.Cause(err))
	}
	return nil
}

// deliver hands a result out: to standard output even when the result file cannot be written.
func (a *app) deliver(o *buildOptions, raw json.RawMessage) error {
	var fileErr error
	if o.resultFile != "" {
		var b bytes.Buffer
		if err := writeJSON(&b, raw); err != nil {
			return fault.New(fault.Internal, "print the result: %w", err)
		}
		fileErr = writeFile(o.resultFile, b.Bytes(), resultFileMode)
	}
	if err := a.print(o.output, raw, resultTable); err != nil {
		return err
	}
	return fileErr
}

// summary tells people in a few lines what stands in the registry now. It is for those who do not see the result
// itself as a table.
func (a *app) summary(raw json.RawMessage, took time.Duration) {
	var r result.Result
	if json.Unmarshal(raw, &r) != nil {
		return
	}
	done := 0
	for _, image := range r.Images {
		if image.Error == nil {
			done++
			did := "pushed"
			if image.Unchanged {
				did = "unchanged"
			}
			fmt.Fprintf(a.Err, "%s %s (%s, %s) %s\n",
				did, image.Ref, plural(len(image.Platforms), "platform"), humanSize(totalSize(image)), image.Digest)
		}
	}
	count := plural(len(r.Images), "image")
	if done < len(r.Images) {
		count = fmt.Sprintf("%d of %s", done, count)
	}
	if done > 0 {
		fmt.Fprintf(a.Err, "%s in %s\n", count, took.Round(100*time.Millisecond))
	}
}
