// Package endtoend holds tests that run the executables as a user does: as processes, with signals, full
// disks and cut links. It has no code of its own.
package endtoend
