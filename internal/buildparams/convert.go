package buildparams

import "imagebuilder/internal/fault"

// Convert writes a document in another format, without a look at what it says: any JSON or YAML text is
// converted, whether it is a valid build_params or not. The order of keys and every value stay; comments go, and
// aliases are written out. The same values in the same order always give the same bytes.
//
// The name's extension tells what data is, and where it says nothing the text does. Errors are Invalid, with problems.
func Convert(data []byte, name string, to Format) ([]byte, error) {
	n, problems := parse(data, name)
	if problems != nil {
		return nil, invalid("read", name, problems)
	}
	switch to {
	case JSON:
		return writeJSON(n), nil
	case YAML:
		return writeYAML(n), nil
	default:
		return nil, fault.New(fault.Invalid, "convert %s: no format %q", title(name), to).WithHint("there are %s and %s", JSON, YAML)
	}
}
