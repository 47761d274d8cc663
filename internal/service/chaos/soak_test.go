//go:build soak

package chaos

import (
	"testing"
	"time"
)

// TestKilledAtRandomForLong is what docs/reliability.md tells of: 500 builds by 20 clients, 2 API replicas, 3 workers, 100 kills.
func TestKilledAtRandomForLong(t *testing.T) {
	newFleet(t, 2, 3).survives(t, plan{builds: 500, clients: 20, kills: 100, pause: 5 * time.Second, within: 20 * time.Minute})
}

// TestKilledAtRandomAloneForLong is the same with SQLite and one process.
func TestKilledAtRandomAloneForLong(t *testing.T) {
	newSingle(t).survives(t, plan{builds: 100, clients: 10, kills: 20, pause: 8 * time.Second, within: 20 * time.Minute})
}
