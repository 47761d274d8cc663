package source

import (
	"net/http"
	"slices"
	"sync"

	"imagebuilder/internal/egress"
)

// gitProxy is the proxy that the git executable's connections are led through where they are guarded. It is started for
// the first of them and ends with the tree.
type gitProxy struct {
	mu      sync.Mutex
	running *egress.Proxy
}

func (p *gitProxy) start(f *Fetcher) (*egress.Proxy, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running != nil {
		return p.running, nil
	}
	upstream := http.ProxyFromEnvironment
	if f.HTTPClient != nil {
		if t, ok := f.HTTPClient.Transport.(*http.Transport); ok {
			upstream = t.Proxy
		}
	}
	var err error
	p.running, err = f.Egress.For("git").StartProxy(upstream)
	return p.running, err
}

func (p *gitProxy) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running == nil {
		return nil
	}
	return p.running.Close()
}

// refused gives the guard's reason for an error of git's, if it has one: git knows but a status.
func (p *gitProxy) refused(err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil && p.running != nil {
		if refusal := p.running.TakeRefusal(); refusal != nil {
			return refusal
		}
	}
	return err
}

// guard leads all of git's connections through the guarded proxy.
func (g *gitExecutable) guard() error {
	j := g.job
	if !j.Egress.Refuses() {
		return nil
	}
	proxy, err := j.proxy.start(j.Fetcher)
	if err != nil {
		return err
	}
	j.hide(proxy.Password())
	_ = proxy.TakeRefusal() // of a run before
	g.env = slices.DeleteFunc(g.env, func(e string) bool { return e == noProtocol })
	g.env = append(g.env, "GIT_ALLOW_PROTOCOL=http:https")
	g.settings = append(g.settings, [2]string{"http.proxy", proxy.URL()}, [2]string{"http.proxyAuthMethod", "basic"})
	return nil
}

// noProtocol keeps git off the network.
const noProtocol = "GIT_ALLOW_PROTOCOL=none"
