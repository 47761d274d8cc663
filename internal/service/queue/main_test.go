package queue_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"imagebuilder/internal/result"
	"imagebuilder/internal/service/queue"
	"imagebuilder/internal/service/seal"
	"imagebuilder/internal/service/store"
	"imagebuilder/internal/testbed"
)

// workerEnv has this test binary be a worker; it holds a workerSetup as JSON.
const workerEnv = "QUEUE_TEST_WORKER"

// workerSetup is what a worker needs that runs in a process of its own.
type workerSetup struct {
	Database     store.Config
	Identity     string
	Plugin       string
	Settings     result.Settings
	TempDir      string
	Lease, Grace time.Duration
}

// pluginPath is the real plugin, built once.
var pluginPath string

func TestMain(m *testing.M) {
	if text := os.Getenv(workerEnv); text != "" {
		os.Exit(beWorker(text))
	}
	os.Exit(testbed.WithPrograms(func(folder string) int {
		pluginPath = filepath.Join(folder, "image-builder-plugin")
		flag.Parse()
		if flag.Lookup("test.parallel").Value.String() == strconv.Itoa(runtime.GOMAXPROCS(0)) {
			_ = flag.Set("test.parallel", strconv.Itoa(3*runtime.GOMAXPROCS(0))) // most of these tests wait, for leases and sleeps
		}
		return m.Run()
	}, "image-builder-plugin"))
}

// beWorker works until SIGTERM, and writes on standard output how attempts end.
func beWorker(text string) int {
	var setup workerSetup
	if err := json.Unmarshal([]byte(text), &setup); err != nil {
		panic(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if os.Getenv("QUEUE_TEST_VERBOSE") == "" {
		logger = slog.New(slog.DiscardHandler)
	}
	setup.Database.Logger = logger
	db, err := store.Open(ctx, setup.Database)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer db.Close()
	opener, err := seal.NewOpener(setup.Identity)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	w, err := queue.New(queue.Config{
		Store: db, Opener: opener, PluginPath: setup.Plugin, PluginSettings: setup.Settings, Environment: os.Environ(),
		TempDir: setup.TempDir, Lease: setup.Lease, Grace: setup.Grace, Logger: logger, Observer: printer{},
	})
	if err == nil {
		err = w.Run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// printer writes how attempts end on standard output.
type printer struct{ watcher }

func (printer) Ended(_ context.Context, _ store.Invocation, end queue.Ending) { fmt.Println(end.How) }
