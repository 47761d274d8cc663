package tosca

// Names of TOSCA's own types that mean something here.
const (
	rootNode     = "tosca.nodes.Root"
	computeNode  = "tosca.nodes.Compute"
	softwareNode = "tosca.nodes.SoftwareComponent"
	rootData     = "tosca.datatypes.Root"
	rootPolicy   = "tosca.policies.Root"
	hostedOn     = "tosca.relationships.HostedOn"
	dependsOn    = "tosca.relationships.DependsOn"
	lifecycle    = "tosca.interfaces.node.lifecycle.Standard"
	configure    = "tosca.interfaces.relationship.Configure"
	standard     = "Standard" // the name of a node's lifecycle interface

	nodeCapability    = "tosca.capabilities.Node"
	computeCapability = "tosca.capabilities.Compute"
	rootEntity        = "tosca.entity.Root"
)

// normative is the place of what no file defines.
var normative = Position{File: "TOSCA 1.3"}

func builtin(s string) *Value { return &Value{at: normative, kind: text, text: s} }

func named(name, parent string) entity {
	e := entity{name: name, at: normative}
	if parent != "" {
		e.parent = builtin(parent)
	}
	return e
}

// newDefinitions are TOSCA's own types as far as templates of this host can need them.
func newDefinitions() *definitions {
	d := &definitions{
		data: map[string]*dataType{}, nodes: map[string]*nodeType{}, capabilities: map[string]*simpleType{},
		relationships: map[string]*simpleType{}, policies: map[string]*simpleType{}, artifacts: map[string]*simpleType{},
		interfaces: map[string]*interfaceType{},
	}
	d.addData()
	for name, parent := range map[string]string{
		"tosca.capabilities.Root": "", nodeCapability: "tosca.capabilities.Root",
		"tosca.capabilities.Container": "tosca.capabilities.Root", computeCapability: "tosca.capabilities.Container",
		"tosca.capabilities.Endpoint": "tosca.capabilities.Root", "tosca.capabilities.Endpoint.Admin": "tosca.capabilities.Endpoint",
		"tosca.capabilities.OperatingSystem": "tosca.capabilities.Root", "tosca.capabilities.Scalable": "tosca.capabilities.Root",
		"tosca.capabilities.network.Bindable": nodeCapability,
	} {
		d.capabilities[name] = &simpleType{entity: named(name, parent)}
	}
	for name, parent := range map[string]string{
		"tosca.relationships.Root": "", dependsOn: "tosca.relationships.Root",
		hostedOn: "tosca.relationships.Root", "tosca.relationships.ConnectsTo": "tosca.relationships.Root",
	} {
		d.relationships[name] = &simpleType{entity: named(name, parent)}
	}
	for name, parent := range map[string]string{
		rootPolicy: "", "tosca.policies.Placement": rootPolicy, "tosca.policies.Scaling": rootPolicy,
		"tosca.policies.Update": rootPolicy, "tosca.policies.Performance": rootPolicy,
	} {
		d.policies[name] = &simpleType{entity: named(name, parent)}
	}
	for name, parent := range map[string]string{
		"tosca.artifacts.Root": "", "tosca.artifacts.File": "tosca.artifacts.Root",
		"tosca.artifacts.Implementation": "tosca.artifacts.Root", "tosca.artifacts.Implementation.Bash": "tosca.artifacts.Implementation",
		"tosca.artifacts.Implementation.Python": "tosca.artifacts.Implementation",
	} {
		d.artifacts[name] = &simpleType{entity: named(name, parent)}
	}
	d.interfaces["tosca.interfaces.Root"] = &interfaceType{entity: named("tosca.interfaces.Root", "")}
	d.interfaces[lifecycle] = &interfaceType{
		entity: named(lifecycle, "tosca.interfaces.Root"), operations: operations("create", "configure", "start", "stop", "delete"),
	}
	d.interfaces[configure] = &interfaceType{entity: named(configure, "tosca.interfaces.Root"), operations: operations(
		"pre_configure_source", "pre_configure_target", "post_configure_source", "post_configure_target",
		"add_target", "add_source", "target_changed", "remove_target")}
	d.addNodes()
	return d
}

func operations(names ...string) []*operation {
	var list []*operation
	for _, name := range names {
		list = append(list, &operation{name: name, at: normative})
	}
	return list
}

func (d *definitions) addData() {
	for _, name := range primitives {
		d.data[string(name)] = &dataType{entity: named(string(name), ""), primitive: name}
	}
	d.data[rootData] = &dataType{entity: named(rootData, "")}
	for _, name := range []string{"tosca.datatypes.json", "tosca.datatypes.xml"} {
		d.data[name] = &dataType{entity: named(name, string(ofText))}
	}
	d.data["tosca.datatypes.Credential"] = &dataType{entity: named("tosca.datatypes.Credential", rootData), properties: []*property{
		d.property("protocol", "string", false), d.withDefault("token_type", "string", "password"), d.property("token", "string", true),
		{name: "keys", at: normative, schema: &schema{at: normative, name: "map", data: d.data["map"], entry: d.schema("string")}},
		d.property("user", "string", false),
	}}
}

func (d *definitions) schema(name string) *schema {
	return &schema{at: normative, name: name, data: d.data[name]}
}

func (d *definitions) property(name, typ string, required bool) *property {
	return &property{name: name, at: normative, schema: d.schema(typ), required: required}
}

func (d *definitions) withDefault(name, typ, value string) *property {
	p := d.property(name, typ, true)
	p.value = builtin(value)
	return p
}

func (d *definitions) addNodes() {
	unbounded := func(name, capability, node, relationship string) *requirementDefinition {
		return &requirementDefinition{
			name: name, at: normative, capability: builtin(capability), node: builtin(node),
			relationship: builtin(relationship), most: -1,
		}
	}
	d.nodes[rootNode] = &nodeType{
		entity: named(rootNode, ""),
		attributes: []*property{
			d.property("tosca_id", "string", false), d.property("tosca_name", "string", false), d.property("state", "string", false),
		},
		capabilities: []*capabilityDefinition{{name: "feature", at: normative, typ: builtin(nodeCapability)}},
		requirements: []*requirementDefinition{unbounded("dependency", nodeCapability, rootNode, dependsOn)},
		interfaces:   []*interfaceDefinition{{name: standard, at: normative, typ: builtin(lifecycle)}},
	}
	d.nodes[computeNode] = &nodeType{
		entity: named(computeNode, rootNode),
		attributes: []*property{
			d.property("private_address", "string", false), d.property("public_address", "string", false),
			d.property("networks", "map", false), d.property("ports", "map", false),
		},
		capabilities: []*capabilityDefinition{
			{name: "host", at: normative, typ: builtin(computeCapability)},
			{name: "endpoint", at: normative, typ: builtin("tosca.capabilities.Endpoint.Admin")},
			{name: "os", at: normative, typ: builtin("tosca.capabilities.OperatingSystem")},
			{name: "scalable", at: normative, typ: builtin("tosca.capabilities.Scalable")},
			{name: "binding", at: normative, typ: builtin("tosca.capabilities.network.Bindable")},
		},
	}
	host := unbounded("host", computeCapability, computeNode, hostedOn)
	host.least, host.most = 1, 1
	d.nodes[softwareNode] = &nodeType{
		entity: named(softwareNode, rootNode),
		properties: []*property{
			d.property("component_version", "version", false), d.property("admin_credential", "tosca.datatypes.Credential", false),
		},
		requirements: []*requirementDefinition{host},
	}
}
