package engine

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxSavedText is the most that is read of a manifest or config of `docker save`, in bytes, as registries allow.
const maxSavedText = 4 << 20

// savedImage is an image as `docker save` has it.
type savedImage struct {
	config []byte
	layers []savedLayer
}

type savedLayer struct {
	diff digest.Digest
	path string // file with the layer, unpacked; "" when it was not wanted
}

// savedFile is an entry of the archive.
type savedFile struct {
	digest digest.Digest
	path   string
	link   string // another entry
}

// readSaved reads the one image, by its ID, of a `docker save`, and puts its layers into a folder, all but those of which
// known says that nobody needs the bytes. Both forms of the archive are read: that of Engines before 25, with a
// folder for each layer, and the OCI layout since then; manifest.json is in both. Every byte is checked against
// the image's ID.
func readSaved(stream io.Reader, id digest.Digest, dir string, known func(diff digest.Digest) bool) (*savedImage, error) {
	files, err := unpackSaved(stream, dir, known)
	if err != nil {
		return nil, err
	}
	var manifests []struct {
		Config string
		Layers []string
	}
	data, err := files.text("manifest.json")
	if err == nil {
		err = json.Unmarshal(data, &manifests)
	}
	if err == nil && len(manifests) != 1 {
		err = fmt.Errorf("it holds %d images", len(manifests))
	}
	if err != nil {
		return nil, fmt.Errorf("manifest.json: %w", err)
	}
	image := &savedImage{}
	if image.config, err = files.text(manifests[0].Config); err != nil {
		return nil, err
	}
	if digest.FromBytes(image.config) != id {
		return nil, errors.New("its config is that of another image")
	}
	var config ocispecs.Image
	if err := json.Unmarshal(image.config, &config); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	if len(config.RootFS.DiffIDs) != len(manifests[0].Layers) {
		return nil, fmt.Errorf("%d layers are there, and %d belong to it", len(manifests[0].Layers), len(config.RootFS.DiffIDs))
	}
	for i, name := range manifests[0].Layers {
		file, err := files.find(name)
		if err != nil {
			return nil, err
		}
		if file.digest != config.RootFS.DiffIDs[i] {
			return nil, fmt.Errorf("%s has the digest %s, and %s belongs there", name, file.digest, config.RootFS.DiffIDs[i])
		}
		image.layers = append(image.layers, savedLayer{diff: file.digest, path: file.path})
	}
	return image, nil
}

type savedFiles map[string]savedFile

// unpackSaved writes an archive's files into a folder, under names of ours.
func unpackSaved(stream io.Reader, dir string, known func(digest.Digest) bool) (savedFiles, error) {
	files := savedFiles{}
	archive := tar.NewReader(stream)
	for {
		header, err := archive.Next()
		if err == io.EOF {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		name := path.Clean(header.Name)
		switch header.Typeflag {
		case tar.TypeReg:
			target := filepath.Join(dir, strconv.Itoa(len(files)))
			if promised, ok := blobName(name); ok && known(promised) {
				target = ""
			}
			sum, err := writeHashed(target, archive)
			if err != nil {
				return nil, err
			}
			files[name] = savedFile{digest: sum, path: target}
		case tar.TypeSymlink: // a layer that stands in the archive already
			files[name] = savedFile{link: path.Join(path.Dir(name), header.Linkname)}
		case tar.TypeLink:
			files[name] = savedFile{link: path.Clean(header.Linkname)}
		}
	}
}

// blobName is the digest that the name of an OCI layout's blob promises.
func blobName(name string) (digest.Digest, bool) {
	encoded, ok := strings.CutPrefix(name, "blobs/sha256/")
	if !ok {
		return "", false
	}
	d := digest.NewDigestFromEncoded(digest.SHA256, encoded)
	return d, d.Validate() == nil
}

// writeHashed writes to a file, or nowhere when its name is empty.
func writeHashed(name string, from io.Reader) (digest.Digest, error) {
	hash := digest.SHA256.Digester()
	if name == "" {
		_, err := io.Copy(hash.Hash(), from)
		return hash.Digest(), err
	}
	file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(io.MultiWriter(file, hash.Hash()), from)
	return hash.Digest(), errors.Join(err, file.Close())
}

// find follows links.
func (f savedFiles) find(name string) (savedFile, error) {
	name = path.Clean(name)
	for range len(f) {
		file, ok := f[name]
		if !ok {
			break
		}
		if file.link == "" {
			return file, nil
		}
		name = file.link
	}
	return savedFile{}, fmt.Errorf("%s is missing", name)
}

func (f savedFiles) text(name string) ([]byte, error) {
	found, err := f.find(name)
	if err != nil {
		return nil, err
	}
	file, err := os.Open(found.path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	data, err := io.ReadAll(io.LimitReader(file, maxSavedText+1))
	if err == nil && len(data) > maxSavedText {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxSavedText)
	}
	return data, err
}
