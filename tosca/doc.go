// Package tosca is image-builder's own host for TOSCA templates: it reads the subset of TOSCA Simple Profile in YAML 1.3
// that our templates use, orders nodes by their requirements, hands the operations of nodes that a plugin performs to a
// [Runner], and keeps what it knows in a folder, so that an interrupted deployment goes on where it was.
//
// What both hosts take means the same to both; what opera would take for something else is refused here, with a message that
// says so. Every error has file, line and column. It runs no playbook and reaches no other machine; a template that needs that is for opera.
//
// The order of things: [Read] a template, [ReadInputs], [Template.Bind] them to a [Topology], then [Deployment.Deploy].
package tosca
