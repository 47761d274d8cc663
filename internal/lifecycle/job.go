package lifecycle

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/dockerfile"
	"imagebuilder/internal/egress"
	"imagebuilder/internal/emulation"
	"imagebuilder/internal/engine"
	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/registry"
	"imagebuilder/internal/result"
	"imagebuilder/internal/secret"
	"imagebuilder/internal/source"
)

// job is one request on its way through.
type job struct {
	doc      *buildparams.Document
	secrets  *buildparams.Revealed
	settings result.Settings
	workDir  string
	emit     event.Sink
	now      func() time.Time
	lease    lease
	egress   *egress.Guard
	machine  emulation.Machine // that engines on this machine run on
	turns    *engine.Turns     // at the managed engine

	folder   *folder // removed by close
	dir      string  // its path
	registry *registry.Client
	tree     *source.Tree
	file     *dockerfile.File
	variants []*variant
	epoch    *time.Time // time of everything new in the images; nil leaves it to the engine
	// pushes: images come here as layouts and we push them, because the engine cannot.
	pushes  bool
	allowed func() error // whether we may push, as far as the registry tells; waits for its answer
	own     ownBases
	bases   *registry.Store // what the engine cannot pull as we do; nil when there is nothing
}

// variant is one image of the document, in the terms of the packages that build it.
type variant struct {
	index      int
	ref        string // registry/repository:tag
	repository string // registry/repository
	image      buildparams.Image
	platforms  []ocispecs.Platform
	args       map[string]string
	labels     map[string]string
	uses       []use
	key        string                 // of its inputs; "" when it cannot be known
	own        map[string]string      // digests of bases that stay, by full reference
	there      func() *registry.Image // what the tag names when the work begins; waits for the registry's answer, nil for nothing that we can read
	moved      []result.MovedBase     // since the image that the tag names
	pushes     bool                   // we push it, because the engine's daemon cannot: see supplyBases
}

func newJob(doc *buildparams.Document, settings result.Settings, workDir string, emit event.Sink, now func() time.Time) (*job, error) {
	references := secret.Host(workDir)
	references.Given = settings.References
	secrets, err := buildparams.Resolve(doc, references)
	if err != nil {
		return nil, err
	}
	sites, err := registrySites(settings.Registries)
	if err != nil {
		return nil, err
	}
	guard, err := guardOf(settings.Egress)
	if err != nil {
		return nil, err
	}
	to := doc.Target.Registry
	client, err := registry.New(registry.Config{
		Host: to.Host(), Username: to.Username, Password: secrets.RegistryPassword,
		PlainHTTP: to.PlainHTTP(), Insecure: to.Insecure, CA: secrets.CACert, UserAgent: "image-builder", Emit: emit,
		Registries: sites, Egress: guard,
	})
	if err != nil {
		return nil, err
	}
	j := &job{doc: doc, secrets: secrets, settings: settings, workDir: workDir, emit: emit, now: now, registry: client, own: ownBases{}}
	j.lease = lease{settings.LeaseFile, now}
	j.egress = guard
	for i := range doc.Target.Images {
		v, err := j.newVariant(i)
		if err != nil {
			return nil, err
		}
		j.variants = append(j.variants, v)
	}
	if j.folder, err = makeFolder(settings.WorkFolder); err != nil {
		j.registry.Close()
		return nil, err
	}
	j.dir = j.folder.path
	return j, nil
}

func (j *job) newVariant(i int) (*variant, error) {
	image := j.doc.Target.Images[i]
	v := &variant{
		index: i, image: image, ref: j.doc.Ref(i), repository: j.doc.Repository(i),
		args: merged(j.doc.Options.BuildArgs, image.BuildArgs),
	}
	for _, name := range image.Platforms {
		p, err := platforms.Parse(name)
		if err != nil {
			return nil, fault.New(fault.Internal, "platform %s passed validation: %w", name, err)
		}
		v.platforms = append(v.platforms, platforms.Normalize(p))
	}
	return v, nil
}

// close removes what the job made on this machine.
func (j *job) close() {
	if j.tree != nil {
		_ = j.tree.Close()
	}
	j.registry.Close()
	j.folder.remove()
}

// startPushCheck asks whether the images may be pushed at all, while other things are done. A refusal ends those at once.
func (j *job) startPushCheck(ctx context.Context, giveUp context.CancelCauseFunc) {
	answer := make(chan error, 1)
	go func() {
		err := j.checkPush(ctx)
		if err != nil {
			giveUp(err)
		}
		answer <- err
	}()
	j.allowed = sync.OnceValue(func() error { return <-answer })
}

func (j *job) fetchSource(ctx context.Context) error {
	fetcher := &source.Fetcher{CacheDir: j.cacheDir(), WorkDir: j.workDir, Now: j.now, Egress: j.egress}
	dir := filepath.Join(j.dir, "source")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fault.New(fault.Unavailable, "make a temporary folder: %w", err)
	}
	tree, err := fetcher.Fetch(ctx, j.doc.Source, &source.Credentials{
		GitPassword: j.secrets.GitPassword, DockerfilePassword: j.secrets.DockerfilePassword, ContextPassword: j.secrets.ContextPassword,
	}, dir, j.emit)
	if err != nil {
		return err
	}
	j.tree = tree
	if j.file, err = dockerfile.Parse(tree.DockerfileName, tree.Dockerfile); err != nil {
		return err
	}
	if err := j.setEpoch(); err != nil {
		return err
	}
	for _, v := range j.variants {
		v.labels = merged(sourceLabels(tree), j.doc.Options.Labels, v.image.Labels, j.ownership())
	}
	return nil
}

// sourceLabels tell where an image comes from, in the words of the OCI image specification's annotations.
func sourceLabels(tree *source.Tree) map[string]string {
	labels := map[string]string{}
	if tree.URL != "" {
		labels["org.opencontainers.image.source"] = tree.URL
	}
	if tree.Commit != "" {
		labels["org.opencontainers.image.revision"] = tree.Commit
	}
	return labels
}

func (j *job) checkPush(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	asked := map[string]bool{}
	for _, v := range j.variants {
		if !asked[v.repository] {
			asked[v.repository] = true
			group.Go(func() error { return j.registry.CheckPush(ctx, v.repository) })
		}
	}
	return group.Wait()
}

// cacheDir is where git mirrors are kept: as set, or in the user's cache folder.
func (j *job) cacheDir() string {
	if j.settings.CacheDir != "" {
		return j.settings.CacheDir
	}
	if dir, err := os.UserCacheDir(); err == nil {
		return filepath.Join(dir, "image-builder")
	}
	return filepath.Join(j.dir, "cache")
}

func merged(layers ...map[string]string) map[string]string {
	all := map[string]string{}
	for _, layer := range layers {
		maps.Copy(all, layer)
	}
	return all
}
