// Package clientscript holds the tests of scripts/client.py: they start the REST service with everything that builds need, and
// run the script as its users do. It has no code of its own.
package clientscript
