// Command ownimage is what make images runs: it has image-builder build container images of image-builder, from what
// scripts/images.sh has gathered. They go to a registry that is named; otherwise to one of its own, and from there into
// archives that docker load takes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"imagebuilder/internal/engine/managed"
	"imagebuilder/internal/testbed"
)

// Where things are in the working tree.
const (
	plugin   = "bin/image-builder-plugin"
	examples = "schemas/examples/own-images"
	// stateDir is that of make run, so that the engine's cache is there once.
	stateDir = ".work/run"
)

// options say what is built and where it goes.
type options struct {
	builder   string // executable
	context   string
	registry  string   // host that the image is pushed to; "" keeps it here
	images    []string // names, as those of the folders of examples
	prefix    string   // of the images' repositories, as tools/
	version   string
	epoch     int64 // seconds: the time of everything that is new in the images
	base      string
	platforms string
	archives  string   // folder
	flags     []string // more flags for image-builder
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var o options
	flag.StringVar(&o.builder, "builder", "bin/image-builder", "`EXECUTABLE` that builds")
	images := flag.String("images", "image-builder,image-builder-api,image-builder-postgres,image-builder-registry", "`NAMES` of the images to build")
	flag.StringVar(&o.context, "context", ".work/images/context", "`FOLDER` that scripts/images.sh has filled")
	flag.StringVar(&o.registry, "registry", "", "`HOST` of the registry to push to; by default one that is started, and ends again")
	flag.StringVar(&o.prefix, "prefix", "", "what the images' repositories begin with, as tools/")
	flag.StringVar(&o.version, "version", "dev", "version, which is the images' tag and a label")
	flag.Int64Var(&o.epoch, "epoch", 0, "time of the version, in `SECONDS` since 1970")
	flag.StringVar(&o.base, "base", "", "image from a registry to build on; by default nothing")
	flag.StringVar(&o.platforms, "platforms", "linux/amd64,linux/arm64", "for which to build")
	flag.StringVar(&o.archives, "archives", ".work/images", "`FOLDER` for archives that docker load takes, where no registry is named")
	flag.Parse()
	o.flags, o.images = flag.Args(), strings.Split(*images, ",")
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "ownimage:", err)
		stop()
		os.Exit(exitCode(err))
	}
}

func run(ctx context.Context, o options) (err error) {
	own := o.registry == ""
	if own {
		// Not in memory, where many megabytes take their time.
		images, err := os.MkdirTemp("", "image-builder-ownimage-*")
		if err != nil {
			return err
		}
		defer os.RemoveAll(images)
		registry, err := testbed.StartRegistry(testbed.RegistryOptions{Dir: images})
		if err != nil {
			return err
		}
		defer registry.Close()
		o.registry = registry.Host
	}
	if len(o.flags) == 0 {
		o.flags = []string{"--engine", "managed", "--state-dir", stateDir, "--cache-dir", stateDir + "-cache"}
		defer func() { err = errors.Join(err, stopEngine()) }()
	}
	for _, image := range o.images {
		if err := build(ctx, o, image); err != nil {
			return fmt.Errorf("%s: %w", image, err)
		}
		if !own {
			continue
		}
		if err := save(ctx, o, image); err != nil {
			return err
		}
	}
	return nil
}

// build runs the command line as a user would.
func build(ctx context.Context, o options, image string) error {
	folder := filepath.Join(examples, image)
	sets := []string{
		"source.dockerfile.url=file://" + absolute(filepath.Join(folder, "Dockerfile")),
		"source.build_context.path=" + absolute(o.context),
		"target.registry.url=" + o.registry,
		"target.images[0].image=" + o.prefix + image,
		"target.images[0].tag=" + tagOf(o.version),
		`target.images[0].platforms=["` + strings.ReplaceAll(o.platforms, ",", `","`) + `"]`,
		`target.images[0].labels.org\.opencontainers\.image\.version=` + o.version,
		"options.source_date_epoch=" + strconv.FormatInt(o.epoch, 10),
	}
	if o.base != "" {
		sets = append(sets, "options.build_args.BASE="+o.base)
	}
	if o.epoch > 0 {
		created := time.Unix(o.epoch, 0).UTC().Format(time.RFC3339)
		sets = append(sets, `target.images[0].labels.org\.opencontainers\.image\.created=`+created)
	}
	args := []string{"build", filepath.Join(folder, "build_params.yaml"), "--output", "table"}
	for _, set := range sets {
		args = append(args, "--set", set)
	}
	cmd := exec.CommandContext(ctx, o.builder, append(args, o.flags...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	return cmd.Run()
}

// tagOf makes a tag of a version.
func tagOf(version string) string { return strings.ReplaceAll(version, "+", "-") }

// stopEngine stops the managed engine, which would otherwise stay for its idle time.
func stopEngine() error {
	return managed.Stop(context.Background(), managed.Config{StateDir: absolute(stateDir), Supervisor: []string{absolute(plugin), "engine-supervisor"}})
}

// exitCode is that of image-builder, if it was image-builder that failed.
func exitCode(err error) int {
	if failed := new(exec.ExitError); errors.As(err, &failed) && failed.ExitCode() > 0 {
		return failed.ExitCode()
	}
	return 1
}

func absolute(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		return path
	}
	return abs
}
