package auth

import (
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"imagebuilder/internal/fault"
)

// keysReread is how long what the file of keys said is believed: a key that was removed is refused a second later.
const keysReread = time.Second

// keyring holds the API keys: that of the configuration, and those of a file, which is read again as it is used.
type keyring struct {
	path   string
	now    func() time.Time
	logger *slog.Logger

	own    []key // of the configuration, none or one
	keys   atomic.Pointer[[]key]
	reload sync.Mutex // held by the one who reads; guards what follows
	read   time.Time
	digest [sha256.Size]byte // of what was read last, good or bad
	failed bool              // the last reading was of no use
}

func newKeyring(config Config) (*keyring, error) {
	r := &keyring{path: config.APIKeysFile, now: config.Now, logger: config.Logger}
	if config.APIKey != "" {
		if len(config.APIKey) < minKeyLength || len(config.APIKey) > maxKeyLength {
			return nil, fault.New(fault.Invalid, "AUTH_API_KEY has %d characters", len(config.APIKey)).
				WithHint("use %d to %d random ones, as `openssl rand -hex 24` or `image-builder-api key new` makes them", minKeyLength, maxKeyLength)
		}
		r.own = []key{{
			hash:      sha256.Sum256([]byte(config.APIKey)),
			principal: Principal{Subject: "key:" + defaultKey, Name: defaultKey, Scopes: config.APIKeyScopes},
		}}
	}
	r.keys.Store(&r.own)
	if r.path == "" {
		return r, nil
	}
	data, err := readKeysFile(r.path)
	if err == nil {
		err = r.take(data)
	}
	if err != nil { // at the start somebody is there to mend it
		return nil, fault.New(fault.Invalid, "API keys in %s: %w", r.path, err)
	}
	r.read = r.now()
	return r, nil
}

// find gives the caller whose key it is.
func (r *keyring) find(presented string) (Principal, key, error) {
	k, ok := matching(r.current(), presented)
	if !ok {
		return Principal{}, key{}, refused("the API key is not known")
	}
	if r.expired(k) {
		return Principal{}, key{}, refused("the API key has expired")
	}
	return k.principal, k, nil
}

// byFingerprint gives the caller of a key that was shown earlier, as long as it is good.
func (r *keyring) byFingerprint(fingerprint string) (Principal, bool) {
	keys := r.current()
	i := slices.IndexFunc(keys, func(k key) bool { return k.fingerprint() == fingerprint })
	if i < 0 || r.expired(keys[i]) {
		return Principal{}, false
	}
	return keys[i].principal, true
}

func (r *keyring) expired(k key) bool { return !k.expires.IsZero() && !r.now().Before(k.expires) }

// current is all keys, read again where a second has passed. While one reads, the others take what there is.
func (r *keyring) current() []key {
	if r.path != "" && r.reload.TryLock() {
		defer r.reload.Unlock()
		if now := r.now(); now.Sub(r.read) >= keysReread {
			r.read = now
			r.refresh()
		}
	}
	return *r.keys.Load()
}

// refresh keeps the keys that there are when the file is no good: a slip in an editor must not lock everybody out.
func (r *keyring) refresh() {
	data, err := readKeysFile(r.path)
	if err == nil {
		digest := sha256.Sum256(data)
		if digest == r.digest {
			return
		}
		err = r.take(data)
		r.digest = digest // what is wrong is said once for each content
	} else if r.failed {
		return
	}
	r.failed = err != nil
	if err != nil {
		r.logger.Error("API keys were not read again; those of before are still good", "file", r.path, "error", err)
		return
	}
	r.logger.Info("API keys read again", "file", r.path, "keys", len(*r.keys.Load())-len(r.own))
}

// take makes the keys of a file's content the current ones.
func (r *keyring) take(data []byte) error {
	keys, err := parseKeys(data)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if len(r.own) > 0 && k.hash == r.own[0].hash {
			return fmt.Errorf("%s has the key of AUTH_API_KEY", k.principal.Name)
		}
	}
	all := slices.Concat(r.own, keys)
	r.keys.Store(&all)
	r.digest = sha256.Sum256(data)
	return nil
}

// readKeysFile refuses a file that anybody may write: whoever writes there lets himself in.
func readKeysFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o002 != 0 {
		return nil, fmt.Errorf("mode %o: everybody may write there; chmod o-w", info.Mode().Perm())
	}
	data, err := io.ReadAll(io.LimitReader(file, maxKeysFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxKeysFile {
		return nil, fmt.Errorf("more than %d bytes", maxKeysFile)
	}
	return data, nil
}
