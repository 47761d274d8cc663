// Package blueprints tests the blueprints with TOSCA templates, on real Engines and a real OpenStack: make test-blueprints.
package blueprints
