package tosca

// Info is what is known about the deployment of a folder. Secrets are masked.
type Info struct {
	Status     Status         `json:"status"`
	Template   string         `json:"template,omitempty"`    // absolute path
	InputsFile string         `json:"inputs_file,omitempty"` // absolute path
	Inputs     map[string]any `json:"inputs,omitempty"`
	Nodes      []NodeReport   `json:"nodes"`
	Outputs    map[string]any `json:"outputs,omitempty"`
}

// LoadInfo reads what is known about the deployment of a folder. It waits for no one who deploys there.
func LoadInfo(folder string) (*Info, error) {
	st, err := loadState(folder)
	if err != nil {
		return nil, err
	}
	info := &Info{
		Status: st.Status, Template: st.Template, InputsFile: st.Inputs, Inputs: st.Given,
		Nodes: []NodeReport{}, Outputs: st.Outputs,
	}
	for _, rec := range st.Nodes {
		if rec.State == "" {
			rec.State = "waiting"
		}
		info.Nodes = append(info.Nodes, NodeReport{
			Name: rec.Name, Type: rec.Type, State: rec.State, Attributes: rec.Attributes, Error: rec.Error,
		})
	}
	return info, nil
}
