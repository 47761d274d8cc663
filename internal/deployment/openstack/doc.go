// Package openstack tests library/openstack under real opera, with a real OpenStack: `make test-blueprints`.
package openstack
