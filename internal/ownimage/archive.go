package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// save writes one archive for each platform: docker load takes no more than one from an archive, before version 25 at least.
func save(ctx context.Context, o options, image string) error {
	if err := os.MkdirAll(o.archives, 0o755); err != nil {
		return err
	}
	from, err := name.ParseReference(o.registry + "/" + o.prefix + image + ":" + tagOf(o.version))
	if err != nil {
		return err
	}
	for platform := range strings.SplitSeq(o.platforms, ",") {
		parsed, err := v1.ParsePlatform(platform)
		if err != nil {
			return err
		}
		built, err := remote.Image(from, remote.WithContext(ctx), remote.WithPlatform(*parsed))
		if err != nil {
			return fmt.Errorf("read %s for %s: %w", from, platform, err)
		}
		path := filepath.Join(o.archives, image+"-"+parsed.Architecture+".tar")
		if err := writeArchive(path, []string{o.prefix + image + ":" + tagOf(o.version), o.prefix + image + ":latest"}, built); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		fmt.Printf("docker load -i %s   # %s:%s for %s, %d MB\n", path, o.prefix+image, tagOf(o.version), platform, info.Size()/1e6)
	}
	return nil
}

// writeArchive writes the archive to its place in one step. The image has names without the registry that it came from.
func writeArchive(path string, names []string, image v1.Image) error {
	images := map[name.Tag]v1.Image{}
	for _, text := range names {
		tag, err := name.NewTag(text)
		if err != nil {
			return err
		}
		images[tag] = image
	}
	fresh := path + ".new"
	if err := tarball.MultiWriteToFile(fresh, images); err != nil {
		_ = os.Remove(fresh)
		return err
	}
	return os.Rename(fresh, path)
}
