package emulation

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"io/fs"
	"strconv"
	"strings"
)

// program is what tells the executables of an architecture from others: three fields of the ELF header. It is
// by them that the kernel chooses an interpreter; the names of interpreters differ between distributions.
type program struct {
	class   elf.Class
	data    elf.Data
	machine elf.Machine
}

// emulators are the platforms of the programs that there are emulators for.
var emulators = map[program][]string{
	{elf.ELFCLASS64, elf.ELFDATA2LSB, elf.EM_X86_64}:    {"linux/amd64"},
	{elf.ELFCLASS32, elf.ELFDATA2LSB, elf.EM_386}:       {"linux/386"},
	{elf.ELFCLASS64, elf.ELFDATA2LSB, elf.EM_AARCH64}:   {"linux/arm64"},
	{elf.ELFCLASS32, elf.ELFDATA2LSB, elf.EM_ARM}:       {"linux/arm/v7", "linux/arm/v6"},
	{elf.ELFCLASS64, elf.ELFDATA2LSB, elf.EM_PPC64}:     {"linux/ppc64le"},
	{elf.ELFCLASS64, elf.ELFDATA2MSB, elf.EM_S390}:      {"linux/s390x"},
	{elf.ELFCLASS64, elf.ELFDATA2LSB, elf.EM_RISCV}:     {"linux/riscv64"},
	{elf.ELFCLASS64, elf.ELFDATA2LSB, elf.EM_LOONGARCH}: {"linux/loong64"},
	{elf.ELFCLASS64, elf.ELFDATA2LSB, elf.EM_MIPS}:      {"linux/mips64le"},
	{elf.ELFCLASS64, elf.ELFDATA2MSB, elf.EM_MIPS}:      {"linux/mips64"},
}

// entry is an interpreter that is registered, or that could be.
type entry struct {
	name    string
	line    string // as the kernel takes it; of one that could be registered
	program program
	enabled bool
	fixed   bool // flag F
}

func (e entry) usable() bool { return e.enabled && e.fixed }

// entries are the interpreters of binfmt_misc that are registered for programs we know.
// There are none where it is not mounted.
func entries(binfmt fs.FS) []entry {
	list, err := fs.ReadDir(binfmt, ".")
	if err != nil {
		return nil
	}
	status, err := fs.ReadFile(binfmt, "status")
	on := err != nil || strings.TrimSpace(string(status)) == "enabled"
	var found []entry
	for _, file := range list {
		data, err := fs.ReadFile(binfmt, file.Name())
		if err != nil { // register can only be written
			continue
		}
		e, ok := parseEntry(string(data))
		if ok {
			e.name, e.enabled = file.Name(), e.enabled && on
			found = append(found, e)
		}
	}
	return found
}

// parseEntry reads what the kernel shows of a registered interpreter.
func parseEntry(text string) (entry, bool) {
	var e entry
	var magic, mask []byte
	offset := "0"
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch key {
		case "enabled":
			e.enabled = true
		case "flags:":
			e.fixed = strings.Contains(value, "F")
		case "offset":
			offset = value
		case "magic":
			magic, _ = hex.DecodeString(value)
		case "mask":
			mask, _ = hex.DecodeString(value)
		}
	}
	var ok bool
	e.program, ok = programOf(magic, mask)
	return e, ok && offset == "0"
}

// confFields are those of a line of binfmt.d, after the first colon: name, type, offset, magic, mask, interpreter, flags.
const confFields = 7

// parseConf reads a line of a file in binfmt.d (binfmt.d(5)), and adds the flag F where it is missing.
func parseConf(line string) (entry, bool) {
	line = strings.TrimSpace(line)
	if line == "" || strings.ContainsRune("#;F", rune(line[0])) { // comments; and no F that parts fields, as one is added
		return entry{}, false
	}
	fields := strings.Split(line[1:], line[:1])
	if len(fields) != confFields || fields[1] != "M" || fields[2] != "" && fields[2] != "0" {
		return entry{}, false
	}
	p, ok := programOf(unescape(fields[3]), unescape(fields[4]))
	if !ok {
		return entry{}, false
	}
	if !strings.Contains(fields[6], "F") {
		line += "F"
	}
	return entry{name: fields[0], line: line, program: p, enabled: true, fixed: true}, true
}

// The ELF header, as far as it tells programs apart (elf(5)).
const (
	elfClass   = 4
	elfData    = 5
	elfMachine = 18
	elfEnough  = 20
)

// programOf tells which programs a magic and its mask are for.
func programOf(magic, mask []byte) (program, bool) {
	if len(magic) < elfEnough || !bytes.HasPrefix(magic, []byte(elf.ELFMAG)) {
		return program{}, false
	}
	p := program{class: elf.Class(magic[elfClass]), data: elf.Data(magic[elfData])}
	var order binary.ByteOrder = binary.LittleEndian
	low := elfMachine // where the byte is that tells machines apart: Debian's mask for ppc64le leaves out the other
	if p.data == elf.ELFDATA2MSB {
		order, low = binary.BigEndian, elfMachine+1
	}
	p.machine = elf.Machine(order.Uint16(magic[elfMachine:]))
	for _, i := range []int{elfClass, low} {
		if len(mask) > 0 && (len(mask) <= i || mask[i] != 0xff) {
			return program{}, false // it would take other programs too
		}
	}
	return p, emulators[p] != nil
}

// unescape reads \x7f and the like; what is no escape stands for itself.
func unescape(text string) []byte {
	var out []byte
	for text != "" {
		if strings.HasPrefix(text, `\x`) && len(text) >= 4 {
			if b, err := strconv.ParseUint(text[2:4], 16, 8); err == nil {
				out, text = append(out, byte(b)), text[4:]
				continue
			}
		}
		out, text = append(out, text[0]), text[1:]
	}
	return out
}
