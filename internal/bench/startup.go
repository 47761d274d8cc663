package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"imagebuilder/plugin"
)

const (
	helpGoal   = 0.025 // s
	readyGoal  = 0.040 // s
	memoryGoal = 120   // MB
	// The large context: sparse files, so that this machine's disk is not what is measured.
	largeFiles = 20
	largeFile  = 2 << 30 / largeFiles
	// look is how often memory is asked for. The kernel keeps the peak, so only the last moment can be missed.
	look = 2 * time.Millisecond
)

// startUp measures what every run pays, and the memory of one with a large context.
func startUp(ctx context.Context, l *lab, rounds int) ([]measure, error) {
	const help, ready, version = "image-builder --help", "start and Describe of the plugin", "image-builder version, plugin included"
	contenders := []contender{
		{help, func(ctx context.Context, _ int) (map[string]float64, error) {
			return one(l.time(ctx, "", l.builder, "--help"))
		}},
		{ready, func(ctx context.Context, _ int) (map[string]float64, error) { return one(l.startPlugin(ctx)) }},
		{version, func(ctx context.Context, _ int) (map[string]float64, error) {
			return one(l.time(ctx, "", l.builder, "version"))
		}},
	}
	times := measure{what: "start-up", unit: "s", series: []series{
		{name: help, goal: helpGoal, absolute: true}, {name: ready, goal: readyGoal, absolute: true}, {name: version},
	}}
	if err := alternate(ctx, l, rounds*quick, contenders, map[string]*measure{"": &times}); err != nil {
		return []measure{times}, err
	}
	memory, err := largeContext(ctx, l, rounds)
	return []measure{times, memory}, err
}

func (l *lab) startPlugin(ctx context.Context) (float64, error) {
	began := time.Now()
	client, err := plugin.Start(ctx, l.plugin, plugin.Options{})
	if err != nil {
		return 0, err
	}
	defer client.Close()
	_, err = client.Describe(ctx)
	return time.Since(began).Seconds(), err
}

// largeContext measures the peak memory of host and plugin while they send 2 GB.
func largeContext(ctx context.Context, l *lab, rounds int) (measure, error) {
	const both, host, worker = "host and plugin", "host", "plugin"
	m := measure{what: "peak memory, 2 GB context", unit: "MB", series: []series{
		{name: both, goal: memoryGoal, absolute: true}, {name: host}, {name: worker},
	}}
	dir := l.path("large")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return m, err
	}
	dockerfile := fmt.Sprintf("FROM %s/base/busybox:1 AS all\nCOPY . /src\nRUN ls /src >/list\nFROM scratch\nCOPY --from=all /list /\n", l.registry.Host)
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644); err != nil {
		return m, err
	}
	for i := range largeFiles {
		path := filepath.Join(dir, fmt.Sprintf("f%02d", i))
		if err := os.WriteFile(path, []byte(strconv.Itoa(i)), 0o644); err != nil {
			return m, err
		}
		if err := os.Truncate(path, largeFile); err != nil {
			return m, err
		}
	}
	run := func(ctx context.Context, _ int) (map[string]float64, error) {
		if err := l.prune(ctx); err != nil {
			return nil, err
		}
		peak, err := l.peakMemory(ctx, dir)
		return map[string]float64{"/" + both: peak[0] + peak[1], "/" + host: peak[0], "/" + worker: peak[1]}, err
	}
	err := alternate(ctx, l, rounds, []contender{{both, run}}, map[string]*measure{"": &m})
	return m, err
}

// peakMemory builds a folder and gives the peaks of host and plugin, in MB.
func (l *lab) peakMemory(ctx context.Context, dir string) (peak [2]float64, err error) {
	file, err := l.write("large.json", l.local(dir, l.image(l.repository("large"), "v1")))
	if err != nil {
		return peak, err
	}
	argv := append([]string{l.builder, "build", file, "--progress", "plain"}, l.engineFlags()...)
	cmd, said, err := l.command(ctx, "", argv...)
	if err != nil {
		return peak, err
	}
	defer said.Close()
	if err := cmd.Start(); err != nil {
		return peak, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	child := 0
	for {
		select {
		case err := <-ended:
			if err != nil {
				err = fmt.Errorf("image-builder build: %w: %s", err, tail(said.Name()))
			}
			return peak, err
		case <-ticker.C:
			if child == 0 {
				child = pluginOf(cmd.Process.Pid)
			}
			peak[0] = max(peak[0], highWater(cmd.Process.Pid))
			peak[1] = max(peak[1], highWater(child))
		}
	}
}

// pluginOf finds the plugin that a host has started; 0 when there is none yet.
func pluginOf(host int) int {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", host))
	for _, file := range tasks {
		data, _ := os.ReadFile(file)
		for pid := range strings.FieldsSeq(string(data)) {
			name, _ := os.Readlink("/proc/" + pid + "/exe")
			if filepath.Base(name) == plugin.MainName {
				n, _ := strconv.Atoi(pid)
				return n
			}
		}
	}
	return 0
}

// highWater is the peak of a process's resident memory, in MB; 0 when it is gone.
func highWater(pid int) float64 {
	value, ok := strings.CutSuffix(field(fmt.Sprintf("/proc/%d/status", pid), "VmHWM"), " kB")
	kib, err := strconv.ParseFloat(value, 64)
	if !ok || err != nil {
		return 0
	}
	return kib / 1024
}
