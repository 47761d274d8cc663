package remote

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"imagebuilder/internal/fault"
	"imagebuilder/plugin"
)

// ProgramsVariable names a folder with executables for servers: itself, or a folder in it for each kind of machine, as
// linux-arm64.
const ProgramsVariable = "IMAGE_BUILDER_REMOTE_PROGRAMS"

// mainProgram is the executable that a server runs; it finds the plugin beside it.
const mainProgram = "image-builder"

// Programs is where executables for servers are.
type Programs struct {
	Own     string // this executable
	Plugin  string // its plugin
	Folder  string // what ProgramsVariable says; may be empty
	Managed bool   // the daemons of the managed engine go along, where they lie beside
}

// machine is a kind of machine, as Go names it.
type machine struct{ os, arch string }

func (m machine) String() string { return m.os + "/" + m.arch }

// machineOf reads what uname -s and uname -m say.
func machineOf(system, processor string) machine {
	m := machine{strings.ToLower(system), processor}
	switch processor {
	case "x86_64":
		m.arch = "amd64"
	case "aarch64":
		m.arch = "arm64"
	case "armv7l", "armv6l", "armv8l":
		m.arch = "arm"
	case "i386", "i486", "i586", "i686":
		m.arch = "386"
	}
	return m
}

// elfMachines are those that executables are told apart by.
var elfMachines = map[string]elf.Machine{
	"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "arm": elf.EM_ARM, "386": elf.EM_386,
	"riscv64": elf.EM_RISCV, "ppc64le": elf.EM_PPC64, "s390x": elf.EM_S390,
}

// fits tells whether a file is an executable for a kind of machine.
func fits(path string, m machine) bool {
	f, err := elf.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return m.os == "linux" && f.Machine == elfMachines[m.arch]
}

// set is executables for a server, in one folder there.
type set struct {
	files    []file
	manifest string // as sha256sum -c takes it
}

type file struct{ name, path string }

// find gives the executables for a kind of machine.
func (p Programs) find(m machine) (*set, error) {
	pair := func(folder string) []file {
		return []file{{mainProgram, filepath.Join(folder, mainProgram)}, {plugin.MainName, filepath.Join(folder, plugin.MainName)}}
	}
	beside := filepath.Dir(p.Own)
	kind := m.os + "-" + m.arch
	var candidates [][]file
	if p.Folder != "" {
		candidates = append(candidates, pair(filepath.Join(p.Folder, kind)), pair(p.Folder))
	}
	if m.os == runtime.GOOS {
		candidates = append(candidates, []file{{mainProgram, p.Own}, {plugin.MainName, p.Plugin}})
	}
	candidates = append(candidates, pair(filepath.Join(beside, kind)))
	for _, files := range candidates {
		if fits(files[0].path, m) && fits(files[1].path, m) {
			return newSet(p.withDaemons(files, m))
		}
	}
	return nil, fault.New(fault.Invalid, "there is no image-builder for %s here, which is what the server is", m).
		WithHint("put image-builder and %s of this version for it into %s, or into a folder that %s names",
			plugin.MainName, filepath.Join(beside, kind), ProgramsVariable)
}

// withDaemons adds the managed engine's daemons that lie beside the plugin.
func (p Programs) withDaemons(files []file, m machine) []file {
	if !p.Managed {
		return files
	}
	for _, name := range []string{"buildkitd", "rootlesskit"} {
		if path := filepath.Join(filepath.Dir(files[1].path), name); fits(path, m) {
			files = append(files, file{name, path})
		}
	}
	return files
}

func newSet(files []file) (*set, error) {
	s := &set{files: files}
	for _, f := range files {
		digest, err := digestOf(f.path)
		if err != nil {
			return nil, fault.New(fault.Invalid, "read what is brought to the server: %w", err)
		}
		s.manifest += digest + "  " + f.name + "\n"
	}
	return s, nil
}

// name is the set's folder on a server: a digest of everything in it.
func (s *set) name() string {
	sum := sha256.Sum256([]byte(s.manifest))
	return hex.EncodeToString(sum[:])
}

func digestOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// pack writes the executables as an archive.
func (s *set) pack(w io.Writer) error {
	zipped, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	archive := tar.NewWriter(zipped)
	for _, f := range s.files {
		if err := add(archive, f); err != nil {
			return fmt.Errorf("pack %s: %w", f.path, err)
		}
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return zipped.Close()
}

func add(archive *tar.Writer, f file) error {
	in, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if err := archive.WriteHeader(&tar.Header{Name: f.name, Mode: 0o700, Size: info.Size()}); err != nil {
		return err
	}
	_, err = io.Copy(archive, in)
	return err
}
