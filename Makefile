# Everything that is done with these sources. `make` alone prints what there is.

# One set of flags for all of it, and for the tools in scripts/tools: what the Go command has
# compiled once is never compiled again.
export CGO_ENABLED := 0
export GOFLAGS := -trimpath -buildvcs=false

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
# What runs on the user's own machine, which may have no Linux: it must compile there too.
HOSTS := ./cmd/image-builder ./cmd/image-builder-plugin ./plugin/...
# The service runs on Linux alone.
PORTABLE = $(shell go list ./... | grep -v -e /internal/service -e /internal/apicli -e /cmd/image-builder-api -e /internal/clientscript)
GENERATED := plugin/internal/pluginpb/*.pb.go library/image/data_types.yaml internal/service/api/server.gen.go schemas/client/client.gen.go
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

.PHONY: csar
csar: ## an archive for TOSCA orchestrators, build/image-builder-VERSION.csar: opera deploy -i inputs.yaml ARCHIVE
	@go run ./internal/csar/pack -version $(VERSION) -o build/image-builder-$(VERSION).csar tosca/docker_image_definition.yaml

# What make images makes, and where it goes: see docs/container-images.md.
IMAGES := image-builder image-builder-api image-builder-postgres image-builder-registry
IMAGE_PLATFORMS := linux/amd64,linux/arm64
IMAGE_REGISTRY :=
IMAGE_PREFIX :=
IMAGE_BASE :=
comma := ,
space := $(subst ,, )

.PHONY: images
images: setup build ## the container images of image-builder: docs/container-images.md
	VERSION=$(VERSION) scripts/images.sh .work/images/context '$(IMAGES)' $(subst linux/,,$(subst $(comma), ,$(IMAGE_PLATFORMS)))
	go build -o .work/ownimage ./internal/ownimage
	.work/ownimage -version '$(VERSION)' -epoch $$(git log -1 --format=%ct 2>/dev/null || date +%s) -platforms '$(IMAGE_PLATFORMS)' \
	  -images '$(subst $(space),$(comma),$(IMAGES))' -prefix '$(IMAGE_PREFIX)' -registry '$(IMAGE_REGISTRY)' -base '$(IMAGE_BASE)'

.PHONY: setup
setup: ## what builds need on this machine: Debian's runc and git, BuildKit's daemon into bin/
	scripts/setup.sh packages
	scripts/setup.sh engine

.PHONY: opera
opera: ## the xOpera orchestrator in each version that is supported, into .work/; about a minute, the first time
	scripts/opera.sh
	ANSIBLE_CORE=2.16.19 scripts/opera.sh .work/opera-core2.16

.PHONY: opera-openstack
opera-openstack: ## the oldest and the newest of these, with what servers of an OpenStack take besides
	OPENSTACK=1 OPERA=0.7.0 scripts/opera.sh
	OPENSTACK=1 OPERA=0.6.6 ANSIBLE_CORE=2.16.19 scripts/opera.sh .work/opera-openstack-core2.16

.PHONY: test-tools
test-tools: opera ## what `make test` needs of others, and need not compile
	scripts/setup.sh packages iproute2 git-lfs chromium postgresql curl jq openssh-client sudo uidmap
	scripts/setup.sh node
	scripts/schemathesis.sh
	scripts/bases.sh .work/bases
	scripts/engines.sh debian

.PHONY: test
test: setup build test-tools ## every test, and each fuzz target for FUZZTIME (5s)
	scripts/setup.sh emulation
	scripts/setup.sh puccini
	go test -timeout 15m $(TESTFLAGS) ./...
	@# these take Docker Engines, and so root; fuzz targets are compiled in the time that they leave
	if [ "$$(id -u)" = 0 ]; then \
	  nice -n 19 scripts/fuzz.sh compile & \
	  $(MAKE) --no-print-directory -j 2 -O test-docker test-wrapper && $(MAKE) --no-print-directory test-blueprints BLUEPRINT_FLAGS=-short; code=$$?; wait; exit $$code; \
	else echo 'not tested: Docker Engines, container images, blueprints; as root: make test-docker test-wrapper test-blueprints'; fi
	scripts/fuzz.sh $(FUZZTIME)

.PHONY: test-wrapper
test-wrapper: ## the container images and scripts/image-builder-cli.sh with a Docker Engine; as root
	scripts/setup.sh packages iproute2
	scripts/setup.sh engine
	scripts/engines.sh debian
	go test -timeout 20m -tags docker -count=1 $(TESTFLAGS) ./internal/wrapper

.PHONY: test-compose
test-compose: ## blueprints/docker-compose, and images again for each platform; as root; takes minutes to compile. A part of `make soak`
	scripts/setup.sh packages iproute2 python3
	scripts/setup.sh engine
	scripts/engines.sh debian compose
	go test -timeout 30m -tags docker,compose -run 'TestCompose|TestImagesAreReproducible' -count=1 $(TESTFLAGS) ./internal/wrapper

.PHONY: test-blueprints
test-blueprints: setup build opera opera-openstack ## the service deployed by opera, to a Docker Engine and to an OpenStack of the tests' own; as root
	scripts/setup.sh packages iproute2 openssh-client debootstrap python3 util-linux e2fsprogs
	scripts/setup.sh emulation
	scripts/setup.sh puccini
	scripts/engines.sh debian
	scripts/bases.sh .work/bases
	scripts/openstack/bed.sh setup
	go test -p 2 -timeout 60m -tags blueprints -count=1 $(BLUEPRINT_FLAGS) $(TESTFLAGS) $(BLUEPRINT_TESTS)

.PHONY: fuzz
fuzz: ## each fuzz target for five minutes
	scripts/fuzz.sh 5m

BLUEPRINT_TESTS := ./internal/testbed ./internal/blueprints ./internal/deployment/...
BLUEPRINT_FLAGS := # -short: what nodes do whichever opera runs them, and each flow of day two, is tested with one version, in turn

# Starting a Docker Engine takes root.
AS_ROOT = $(shell [ "$$(id -u)" = 0 ] || echo "sudo -n env PATH=$$PATH")
ENGINE_TESTS = go test -timeout 30m -exec '$(AS_ROOT)' -tags engines -run '^Test(Engines|Addresses|BasesThat|CutDocker)' -count=1 $(TESTFLAGS) ./internal/engine ./internal/engine/enginetest

.PHONY: test-docker
test-docker: setup ## builds with Docker 20.10 and 29, each image store; as root. A part of `make test`
	scripts/setup.sh packages iproute2
	scripts/engines.sh debian 29
	scripts/bases.sh .work/bases
	$(ENGINE_TESTS) -short

.PHONY: test-engines
test-engines: setup ## the same with five Docker Engines and every awkward Dockerfile; as root; gets the Engines first
	scripts/setup.sh packages iproute2
	scripts/engines.sh
	scripts/bases.sh .work/bases
	$(ENGINE_TESTS)

.PHONY: soak
soak: setup build ## tests that take minutes: silence on a healthy link, Keycloak, the service killed 100 times and under load
	scripts/setup.sh packages iproute2
	scripts/bases.sh .work/bases
	go test -timeout 15m -tags soak -run Minutes $(TESTFLAGS) ./internal/engine/
	if [ "$$(id -u)" = 0 ]; then $(MAKE) --no-print-directory test-compose; else echo 'not tested: blueprints/docker-compose, images for each platform; as root: make test-compose'; fi
	scripts/keycloak.sh .work/keycloak
	go test -timeout 15m -tags soak -run Minutes $(TESTFLAGS) ./internal/service/auth/
	scripts/setup.sh packages postgresql
	scripts/bench.sh
	go test -timeout 60m -tags soak -run ForLong -v $(TESTFLAGS) ./internal/service/chaos/
	go test -timeout 15m -tags soak -v $(TESTFLAGS) ./internal/service/load/

.PHONY: bench
bench: setup build opera ## image-builder beside buildctl, buildx and buildah, into docs/benchmarks.md; BENCHFLAGS="-rows 1,5"
	scripts/bench.sh
	go build -o .work/bench/bench ./internal/bench
	.work/bench/bench $(BENCHFLAGS)

.PHONY: verify
verify: ## formatting, vet, linters, generated code, scripts
	scripts/setup.sh packages shellcheck
	scripts/setup.sh lint
	@files=$$(gofmt -l cmd internal plugin schemas scripts tosca); [ -z "$$files" ] || { echo "not formatted:"; echo "$$files"; exit 1; }
	@# Linux is vetted by golangci-lint, below; of others a processor of each: what differs between systems is the system
	for target in darwin/arm64 windows/amd64; do \
	  GOOS=$${target%/*} GOARCH=$${target#*/} go vet $(PORTABLE) && GOOS=$${target%/*} GOARCH=$${target#*/} go build -ldflags=-s -o .work/$$target/ $(HOSTS) || exit 1; done
	.work/tools/golangci-lint run --allow-serial-runners
	@was=$$(cat $(GENERATED) | sha256sum); scripts/generate.sh && [ "$$was" = "$$(cat $(GENERATED) | sha256sum)" ] || \
	  { echo "generated code was stale, and is fresh now: commit $(GENERATED)"; exit 1; }
	shellcheck scripts/*.sh scripts/openstack/*.sh schemas/examples/own-images/*/*.sh blueprints/docker-compose/*.sh .ci/run
	shellcheck -s sh internal/remote/*.sh library/openstack/playbooks/*.sh

.PHONY: clean
clean: ## remove bin/, build/ and .work/; an engine that runs there ends by itself
	@# a rootless engine's files belong to ids that only a user namespace may touch
	rm -rf .work 2>/dev/null || bin/rootlesskit rm -rf .work 2>/dev/null || sudo -n rm -rf .work # the last: what tests did as root
	rm -rf bin build
