//go:build linux

package managed

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	"go.etcd.io/bbolt"
)

// removeAbandonedSnapshots removes snapshots' folders that their database does not know. A daemon that
// is killed after it has named the folder of a new snapshot and before it has committed that name
// leaves it behind. The next daemon takes the name again, and the build that needs it would end with
// "failed to rename: …: file exists" (createSnapshot in containerd's plugins/snapshots/overlay and
// native). No daemon may run.
func (p plan) removeAbandonedSnapshots(ctx context.Context) error {
	databases, err := filepath.Glob(filepath.Join(p.cacheDir(), "runc-*", "snapshots", "metadata.db"))
	if err != nil {
		return err
	}
	var failed []error
	for _, database := range databases {
		known, err := snapshotNames(ctx, database)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		dir := filepath.Join(filepath.Dir(database), "snapshots")
		folders, err := os.ReadDir(dir)
		failed = append(failed, err)
		for _, folder := range folders {
			if _, ok := known[folder.Name()]; !ok {
				failed = append(failed, os.RemoveAll(filepath.Join(dir, folder.Name())))
			}
		}
	}
	return errors.Join(failed...)
}

// snapshotNames gives the names of the folders that a snapshotter's database knows.
func snapshotNames(ctx context.Context, database string) (names map[string]string, err error) {
	store, err := storage.NewMetaStore(database, func(o *bbolt.Options) error {
		o.Timeout = stopGrace // of its lock
		return nil
	})
	if err != nil {
		return nil, err
	}
	defer store.Close()
	err = store.WithTransaction(ctx, false, func(ctx context.Context) error {
		names, err = storage.IDMap(ctx)
		if errdefs.IsNotFound(err) { // nothing was ever committed
			return nil
		}
		return err
	})
	return names, err
}
