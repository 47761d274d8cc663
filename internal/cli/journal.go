package cli

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"

	"imagebuilder/internal/cli/progress"
	"imagebuilder/internal/command"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/imagenode"
)

// journal is where the progress of one operation of a node goes, as plain lines: a log file, and whoever else wants it. The file
// may be missing: nothing about it is a failure of the operation.
type journal struct {
	display *progress.Display
	file    *os.File
	path    string // of the file; "" when there is none
}

func openJournal(op imagenode.Operation, also ...io.Writer) *journal {
	j := &journal{file: createLog(op)}
	if j.file != nil {
		j.path = filepath.Join(op.Folder, logFile(op))
		also = append([]io.Writer{j.file}, also...)
	}
	j.display, _ = progress.New(everyone(also), progress.Plain, "") // plain lines need nothing
	return j
}

// close ends it with the operation's error, if there is one. The file alone gets that: whoever looks on hears it from us anyway.
func (j *journal) close(err error) {
	j.display.Close()
	if j.file == nil {
		return
	}
	if err != nil {
		command.WriteError(j.file, fault.As(err))
	}
	_ = j.file.Close()
}

// everyone is a writer to all of some writers, whatever becomes of one of them.
type everyone []io.Writer

// Write writes to all.
func (e everyone) Write(p []byte) (int, error) {
	for _, w := range e {
		_, _ = w.Write(p)
	}
	return len(p), nil
}

// unfit is what does not belong in the name of a log file.
var unfit = regexp.MustCompile(`[^A-Za-z0-9_-]`)

// logFile is the log's path in the deployment's folder.
func logFile(op imagenode.Operation) string {
	return filepath.Join(".image-builder", "logs", fmt.Sprintf("%s.%s.log", unfit.ReplaceAllString(op.Node, "_"), op.Name))
}

// createLog makes a log file that only its owner can read, in the deployment's folder and nowhere else; nil where that is not
// possible.
func createLog(op imagenode.Operation) *os.File {
	root, err := os.OpenRoot(op.Folder)
	if err != nil {
		return nil
	}
	defer root.Close()
	path := logFile(op)
	if err := root.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil
	}
	_ = root.Remove(path) // whoever may read an older one does not read this one
	file, err := root.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil
	}
	return file
}
