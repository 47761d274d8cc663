package lifecycle

import "imagebuilder/internal/emulation"

// On gives the plugin another machine than this one.
func (p *Plugin) On(m emulation.Machine) *Plugin {
	p.machine = m
	return p
}
