package config

// Files are the paths that a configuration file names, absolute, of files that are read with it. Whether they are there, and what
// else the file says, is not looked at.
func Files(path string) ([]string, error) {
	data, err := content(path)
	if err != nil {
		return nil, err
	}
	f, err := decode(path, data)
	if err != nil {
		return nil, err
	}
	files := []string{f.BuildKit.CA, f.BuildKit.Cert, f.BuildKit.Key}
	for _, n := range f.Nodes {
		files = append(files, n.CA, n.Cert, n.Key)
	}
	for _, r := range f.Registries {
		files = append(files, r.CA, r.Credentials)
	}
	return files, nil
}
