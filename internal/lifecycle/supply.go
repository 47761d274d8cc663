package lifecycle

import (
	"context"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/registry"
	"imagebuilder/internal/result"
)

// supply says from where an engine gets a base image.
type supply struct {
	at     string // pinned reference where the image is, which may be in a mirror
	fromUs bool   // the engine's daemon cannot pull it as we do, and is given it by us
}

// ownBases remembers what the bases are that stay as the Dockerfile names them, so that what an image's key says and what
// is built are the same, though a tag moves between.
type ownBases map[string]*ownBase

type ownBase struct {
	image *registry.Image
	err   error
}

// lookUp asks for bases that are not known yet, side by side.
func (o ownBases) lookUp(ctx context.Context, client *registry.Client, refs []string) {
	var group errgroup.Group
	for _, ref := range refs {
		if known := o[ref]; known != nil && known.err == nil {
			continue
		}
		base := &ownBase{}
		o[ref] = base
		group.Go(func() error {
			base.image, base.err = client.ResolveBase(ctx, ref)
			return nil // each base has its own error
		})
	}
	_ = group.Wait()
}

// supplyBases decides how each base image gets to the engine, and each variant to its registry. A daemon is shared and was
// started with somebody's configuration, so nothing is expected of it: mirrors are named to it as the place to pull from,
// and what it could not pull or push as we do goes through our hands.
func (j *job) supplyBases(ctx context.Context, variants []*variant) error {
	for _, v := range variants {
		same, err := j.registry.AnswerFor(ctx, v.repository)
		if err != nil {
			return err
		}
		v.pushes = !same || !j.registry.DaemonPushes(v.repository) || j.keepFromEngine(v.repository)
	}
	for _, v := range variants {
		for i := range v.uses {
			if err := j.supplyBase(ctx, &v.uses[i]); err != nil {
				return fault.Wrap(err, "base")
			}
		}
	}
	return j.openStore(variants)
}

func (j *job) supplyBase(ctx context.Context, u *use) error {
	if u.with != nil {
		fromUs, err := j.needsUs(ctx, u.with.at)
		u.supply = &supply{at: u.with.at, fromUs: fromUs}
		return err
	}
	fromUs, err := j.needsUs(ctx, u.base.Ref)
	if (err != nil || !fromUs) && !j.registry.HasMirrors(u.base.Ref) {
		return nil // the daemon pulls what the Dockerfile names, and asks for credentials itself
	}
	if err != nil {
		return err
	}
	if !u.base.Named {
		j.emit.Note(event.Warning, u.base.From+": the engine pulls it from its own registry: the Dockerfile has a stage of that name, or needs it through ONBUILD")
		return nil
	}
	j.own.lookUp(ctx, j.registry, []string{u.base.Ref})
	found := j.own[u.base.Ref]
	if found.err != nil {
		return found.err
	}
	fromUs, err = j.needsUs(ctx, found.image.At)
	u.supply = &supply{at: found.image.At, fromUs: fromUs}
	return err
}

// needsUs tells whether a daemon cannot pull an image as we do: for how its registry is reached, or for its credentials, of
// which a daemon can be told only one for a host.
func (j *job) needsUs(ctx context.Context, ref string) (bool, error) {
	same, err := j.registry.AnswerFor(ctx, ref)
	return !same || !j.registry.DaemonReaches(ref) || j.keepFromEngine(ref), err
}

// openStore makes the store with the images that the engine is given by us.
func (j *job) openStore(variants []*variant) error {
	for _, v := range variants {
		for _, u := range v.uses {
			if u.supply == nil || !u.supply.fromUs {
				continue
			}
			if j.bases == nil {
				dir := filepath.Join(j.dir, "bases")
				if err := os.Mkdir(dir, 0o700); err != nil {
					return fault.New(fault.Unavailable, "make a temporary folder: %w", err)
				}
				var err error
				if j.bases, err = j.registry.NewStore(dir); err != nil {
					return err
				}
			}
			if err := j.bases.Add(u.supply.at); err != nil {
				return err
			}
		}
	}
	return nil
}

// registrySites are the settings of registries as package registry takes them.
func registrySites(all map[string]result.RegistrySettings) (map[string]registry.Site, error) {
	sites := map[string]registry.Site{}
	for host, given := range all {
		site := registry.Site{
			Mirrors: given.Mirrors, Credentials: given.Credentials, PlainHTTP: given.PlainHTTP, Insecure: given.Insecure,
		}
		if given.CA != "" {
			var err error
			if site.CA, err = os.ReadFile(given.CA); err != nil {
				return nil, fault.New(fault.Invalid, "CA of registry %s: %w", host, err)
			}
		}
		sites[host] = site
	}
	return sites, nil
}
