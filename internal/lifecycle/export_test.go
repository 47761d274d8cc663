package lifecycle

import "imagebuilder/internal/emulation"

// MakeFolder makes a job's folder, and gives what removes it.
func MakeFolder(in string) (remove func(), err error) {
	f, err := makeFolder(in)
	if err != nil {
		return nil, err
	}
	return f.remove, nil
}

// On gives the plugin another machine than this one.
func (p *Plugin) On(m emulation.Machine) *Plugin {
	p.machine = m
	return p
}
