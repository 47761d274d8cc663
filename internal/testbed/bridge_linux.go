package testbed

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

const (
	// bridgePrefix starts the names of the tests' bridges. The number of the process that made it follows, and that of its network.
	bridgePrefix = "ibt"
	// bridgeNetwork is where their networks are, each of 254 addresses.
	bridgeNetwork = "10.213.%d.1/24"
)

// layBridge makes a bridge for the containers of an Engine, and gives its name. Those of processes that are no more are removed.
func layBridge() (string, error) {
	sweepBridges()
	first := rand.IntN(256)
	for i := range 256 {
		number := (first + i) % 256
		address := fmt.Sprintf(bridgeNetwork, number)
		if isTaken(address) {
			continue
		}
		name := fmt.Sprintf("%s%d.%d", bridgePrefix, os.Getpid(), number)
		if err := ip("link add "+name+" type bridge", "addr add "+address+" dev "+name, "link set "+name+" up"); err != nil {
			return "", errors.Join(err, removeBridge(name))
		}
		return name, nil
	}
	return "", errors.New("no network is free for a bridge")
}

func removeBridge(name string) error {
	if _, err := net.InterfaceByName(name); err != nil {
		return nil
	}
	return ip("link delete " + name)
}

func sweepBridges() {
	all, _ := net.Interfaces()
	for _, one := range all {
		rest, ok := strings.CutPrefix(one.Name, bridgePrefix)
		process, _, _ := strings.Cut(rest, ".")
		if _, err := strconv.Atoi(process); !ok || err != nil {
			continue
		}
		if _, err := os.Stat("/proc/" + process); os.IsNotExist(err) {
			_ = removeBridge(one.Name) // another process may be doing the same
		}
	}
}

func isTaken(address string) bool {
	own, _ := net.InterfaceAddrs()
	for _, a := range own {
		if a.String() == address {
			return true
		}
	}
	return false
}

// ip runs commands of iproute2.
func ip(commands ...string) error {
	for _, command := range commands {
		cmd := exec.Command("ip", strings.Fields(command)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", command, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// freeAddress is a loopback address that nobody listens at.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer func() { _ = listener.Close() }()
	return "tcp://" + listener.Addr().String(), nil
}
