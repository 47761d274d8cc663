// Command bench is what make bench runs: it measures image-builder beside the programs that people would use
// instead, on one machine, with one BuildKit daemon, one registry and one git server, all of its own.
//
// Contenders take turns, so that a noisy minute hits all of them. It asserts nothing: it prints a table, says
// which goals are met, and writes both into docs/benchmarks.md when all rows were run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// leastRounds is the fewest that make a median worth writing down.
const leastRounds = 5

// work is one item: what is measured, and how.
type work struct {
	name  string
	what  string
	run   func(context.Context, *lab, int) ([]measure, error)
	asked bool // runs only when -rows names it: it takes long
}

func allWork() []work {
	return []work{
		{name: "1", what: "no-op: everything cached, push included", run: noop},
		{name: "2", what: "a context of 100 MB, two RUN steps", run: oneContext},
		{name: "3", what: "4 variants × 3 platforms on a context of 200 MB", run: matrix},
		{name: "3p", what: "the same, all of the context copied into each image; minutes a round, and only when named", run: plainMatrix, asked: true},
		{name: "4", what: "git: 50 MB, 3,000 commits", run: gitFetch},
		{name: "5", what: "start-up and memory", run: startUp},
		{name: "6", what: "50 builds at once", run: manyBuilds},
		{name: "7", what: "one image, deployed by opera and by image-builder itself", run: deployOne},
		{name: "8", what: "12 images in three levels, deployed", run: deployGraph},
	}
}

func main() {
	rows := flag.String("rows", "", "what to measure, as 1,2,3p (default all but 3p)")
	rounds := flag.Int("rounds", leastRounds, "how often each contender runs; quick ones run three times as often")
	keep := flag.Bool("keep", false, "keep what the programs said, in .work/bench/run")
	list := flag.Bool("list", false, "list what can be measured")
	flag.Parse()
	if *list {
		for _, w := range allWork() {
			fmt.Printf("%-3s %s\n", w.name, w.what)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *rows, *rounds, *keep); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, rows string, rounds int, keep bool) (err error) {
	wanted, err := choose(rows)
	if err != nil {
		return err
	}
	if rounds < 1 {
		return fmt.Errorf("-rounds %d: there must be one at least", rounds)
	}
	start := time.Now()
	l, err := newLab(ctx, keep)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()

	before := machine(ctx, l)
	var all []measure
	var failed []string
	for _, w := range wanted {
		began := time.Now()
		l.say("%s %s", w.name, w.what)
		measured, err := w.run(ctx, l, rounds)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			failed = append(failed, fmt.Sprintf("%s: %s", w.name, err))
			l.say("%s failed: %s", w.name, err)
		}
		for i := range measured {
			measured[i].item = w.name
		}
		all = append(all, measured...)
		l.say("%s took %.0f s", w.name, time.Since(began).Seconds())
	}
	report := render(all)
	fmt.Printf("\n%s\n%s\n%.0f s in all\n", before, report, time.Since(start).Seconds())
	if len(failed) > 0 {
		return errors.New(strings.Join(failed, "\n"))
	}
	if rows != "" || rounds < leastRounds {
		fmt.Printf("docs/benchmarks.md stays as it is: it takes all rows, and %d rounds or more\n", leastRounds)
		return nil
	}
	return writePage(l.root, before+"\n"+report)
}

func choose(rows string) ([]work, error) {
	all := allWork()
	if rows == "" {
		return slices.DeleteFunc(all, func(w work) bool { return w.asked }), nil
	}
	var chosen []work
	for name := range strings.SplitSeq(rows, ",") {
		i := slices.IndexFunc(all, func(w work) bool { return w.name == strings.TrimSpace(name) })
		if i < 0 {
			return nil, fmt.Errorf("-rows %s: there is no %q; -list shows them", rows, name)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}
