// Package opera holds tests that deploy the templates of tosca/ with the real xOpera orchestrator, in each version that is
// supported, with real Ansible, BuildKit, a registry and git over HTTP. It has no code of its own.
//
// make opera makes the environments.
package opera
