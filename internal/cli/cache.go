package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"imagebuilder/internal/command"
	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
)

// pruneCache is the plugin's operation that removes caches.
const pruneCache = "prune_cache"

// pruneOptions are the options of cache prune.
type pruneOptions struct {
	requestOptions
	scope     string
	olderThan time.Duration
	all       bool
}

func (a *app) cacheCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "Look after the build caches that options.cache keeps in a registry",
		Args:  a.NoSuchCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.cachePruneCommand())
	return cmd
}

func (a *app) cachePruneCommand() *cobra.Command {
	o := &pruneOptions{}
	cmd := &cobra.Command{
		Use:   "prune FILE",
		Short: "Remove build caches from the registry",
		Long: `Remove build caches that options.cache of a document keeps in a registry: those of one scope, as when its branch
is gone, and those whose newest step is older than a time. Images are left alone. What the removed tags
named is freed when the registry collects its garbage.`,
		Example: `  image-builder cache prune build.yaml --scope pr-17
  image-builder cache prune build.yaml --older-than 336h
  image-builder cache prune build.yaml --all`,
		Args:              command.Arguments(1, 1, "one document"),
		ValidArgsFunction: documents,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.file = args[0]
			return a.runCachePrune(cmd.Context(), o)
		},
	}
	o.add(cmd)
	cmd.Flags().StringVar(&o.scope, "scope", "", "only caches of this scope")
	cmd.Flags().DurationVar(&o.olderThan, "older-than", 0, "only caches whose newest step is older, as 336h")
	cmd.Flags().BoolVar(&o.all, "all", false, "all caches of the document's images")
	return cmd
}

func (a *app) runCachePrune(ctx context.Context, o *pruneOptions) error {
	switch chosen := o.scope != "" || o.olderThan > 0; {
	case o.olderThan < 0:
		return fault.New(fault.Invalid, "--older-than %s is negative", o.olderThan)
	case !chosen && !o.all:
		return fault.New(fault.Invalid, "nothing says which caches").WithHint("give --scope, --older-than or both, or --all")
	case chosen && o.all:
		return fault.New(fault.Invalid, "--all goes with neither --scope nor --older-than")
	}
	request, err := a.request(ctx, &o.requestOptions)
	if err != nil {
		return err
	}
	inputs := map[string]any{"build_params": request.Inputs, "scope": o.scope, "older_than": o.olderThan.String()}
	if request.Inputs, err = json.Marshal(inputs); err != nil {
		return fault.New(fault.Internal, "encode the request: %w", err)
	}
	request.Operation = pruneCache
	client, err := a.startPlugin(ctx, o.settings.Plugin, imageNode, pruneCache)
	if err != nil {
		return err
	}
	defer a.closePlugin(client)
	raw, err := client.Execute(ctx, request, event.Discard)
	if len(raw) > 0 {
		if failed := a.print(o.output, raw, prunedTable); failed != nil && err == nil {
			err = failed
		}
	}
	return err
}

func prunedTable(w io.Writer, raw json.RawMessage) error {
	var p result.Pruned
	if err := json.Unmarshal(raw, &p); err != nil {
		return err
	}
	for _, ref := range p.Removed {
		fmt.Fprintln(w, "removed", ref)
	}
	_, err := fmt.Fprintf(w, "%s removed, %d kept\n", plural(len(p.Removed), "cache"), p.Kept)
	return err
}
