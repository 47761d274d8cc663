# Everything that is done with these sources. `make` alone prints what there is.

# One set of flags for all of it, and for the tools in scripts/tools: what the Go command has
# compiled once is never compiled again.
export CGO_ENABLED := 0
export GOFLAGS := -trimpath -buildvcs=false

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
# What runs on the user's own machine, which may have no Linux: it must compile there too.
HOSTS := ./cmd/... ./plugin/...
GENERATED := plugin/internal/pluginpb/*.pb.go
TESTFLAGS :=
FUZZTIME := 5s
BENCHFLAGS :=
.DEFAULT_GOAL := help

.PHONY: help
help:
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{ printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: setup build ## the main job, end to end: a sample repository, two variants, seven platforms
	@# for builds to come: the sample has no RUN for a foreign platform, so it goes on without
	scripts/setup.sh emulation || true
	go build -o .work/demo ./internal/demo
	.work/demo

.PHONY: build
build: ## the executables, into bin/
	go build -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

.PHONY: setup
setup: ## what builds need on this machine: Debian's runc and git, BuildKit's daemon into bin/
	scripts/setup.sh packages
	scripts/setup.sh engine

.PHONY: test
test: setup build ## every test, and each fuzz target for FUZZTIME (5s)
	scripts/setup.sh packages iproute2 git-lfs
	scripts/setup.sh emulation
	scripts/bases.sh .work/bases
	go test -timeout 15m $(TESTFLAGS) ./...
	scripts/fuzz.sh $(FUZZTIME)

.PHONY: fuzz
fuzz: ## each fuzz target for five minutes
	scripts/fuzz.sh 5m

.PHONY: test-engines
test-engines: setup ## the same builds with five Docker Engines and BuildKit; as root; gets the Engines first
	scripts/setup.sh packages iproute2
	scripts/engines.sh
	scripts/bases.sh .work/bases
	go test -timeout 15m -tags engines -count=1 $(TESTFLAGS) ./internal/engine/enginetest

.PHONY: soak
soak: setup ## tests that take minutes: a step that is silent for five on a healthy link
	scripts/setup.sh packages iproute2
	scripts/bases.sh .work/bases
	go test -timeout 15m -tags soak -run Minutes $(TESTFLAGS) ./internal/engine/

.PHONY: bench
bench: setup build ## image-builder beside buildctl, buildx and buildah, into docs/benchmarks.md; BENCHFLAGS="-rows 1,5"
	scripts/bench.sh
	go build -o .work/bench/bench ./internal/bench
	.work/bench/bench $(BENCHFLAGS)

.PHONY: verify
verify: ## formatting, vet, linters, generated code, scripts
	scripts/setup.sh packages shellcheck
	scripts/setup.sh lint
	@files=$$(gofmt -l cmd internal plugin schemas scripts); [ -z "$$files" ] || { echo "not formatted:"; echo "$$files"; exit 1; }
	go vet ./...
	@# a processor of each: what differs between systems is the system
	for target in darwin/arm64 windows/amd64; do \
	  GOOS=$${target%/*} GOARCH=$${target#*/} go vet $(HOSTS) && GOOS=$${target%/*} GOARCH=$${target#*/} go build -o .work/$$target/ $(HOSTS) || exit 1; done
	.work/tools/golangci-lint run --allow-serial-runners
	@was=$$(cat $(GENERATED) | sha256sum); scripts/generate.sh && [ "$$was" = "$$(cat $(GENERATED) | sha256sum)" ] || \
	  { echo "generated code was stale, and is fresh now: commit $(GENERATED)"; exit 1; }
	shellcheck scripts/*.sh .ci/run

.PHONY: clean
clean: ## remove bin/ and .work/; an engine that runs there ends by itself
	@# a rootless engine's files belong to ids that only a user namespace may touch
	rm -rf .work 2>/dev/null || bin/rootlesskit rm -rf .work
	rm -rf bin
