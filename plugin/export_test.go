package plugin

// RunFolder is runFolder for tests.
type RunFolder struct{ f *runFolder }

// NewRunFolder makes a run folder as Start does.
func NewRunFolder(dir string) (RunFolder, error) {
	f, err := newRunFolder(dir)
	return RunFolder{f}, err
}

// Path is where it is.
func (r RunFolder) Path() string { return r.f.path }

// Remove removes it.
func (r RunFolder) Remove() error { return r.f.remove() }
