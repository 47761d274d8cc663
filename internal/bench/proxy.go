package main

import (
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
)

// proxy stands before a daemon's socket and counts what is sent to it.
type proxy struct {
	address  string
	sent     atomic.Int64
	listener net.Listener
	all      sync.WaitGroup
}

func startProxy(target, path string) (*proxy, error) {
	_ = os.Remove(path)
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	p := &proxy{address: "unix://" + path, listener: listener}
	p.all.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return // closed
			}
			p.all.Go(func() { p.serve(client, target) })
		}
	})
	return p, nil
}

func (p *proxy) serve(client net.Conn, target string) {
	defer client.Close()
	daemon, err := net.Dial("unix", target)
	if err != nil {
		return
	}
	defer daemon.Close()
	go func() {
		_, _ = io.Copy(client, daemon)
		_ = client.Close()
	}()
	_, _ = io.Copy(daemon, io.TeeReader(client, counter{&p.sent}))
}

func (p *proxy) close() {
	_ = p.listener.Close()
	p.all.Wait()
}

type counter struct{ n *atomic.Int64 }

func (c counter) Write(data []byte) (int, error) {
	c.n.Add(int64(len(data)))
	return len(data), nil
}
