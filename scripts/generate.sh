#!/bin/sh
# Generates what is committed and derived: the TOSCA data types of build_params, from its JSON Schema, the Go
# code of the plugin's wire protocol, and both sides of the REST API, from its OpenAPI document. No protoc is needed: buf
# compiles, and everything is installed, pinned, into .work/tools. "make verify" runs this and wants no difference.
set -eu

cd "$(dirname "$0")/.."
root=$(pwd)
tools=$root/.work/tools

# buf: the newest version whose every dependency is a released one.
buf=v1.59.0
# protoc-gen-go has to be of the version of the run-time library in go.mod; the gRPC generator has its own numbers.
protobuf=$(go list -m -f '{{.Version}}' google.golang.org/protobuf)
grpc=v1.6.2

# install NAME PACKAGE VERSION leaves NAME in .work/tools. The version is read out of the executable,
# so an installed one costs nothing.
install() {
	if [ -x "$tools/$1" ] && go version -m "$tools/$1" | awk '$1 == "mod" { print $3 }' | grep -qxF "$3"; then
		return
	fi
	echo "installing $1 $3" >&2
	GOBIN=$tools GOFLAGS='' CGO_ENABLED=0 go install "$2@$3"
}

mkdir -p "$tools"
go run ./internal/datatypes/generate >"$tools/data_types.yaml"
mv "$tools/data_types.yaml" library/image/data_types.yaml

# The module in scripts/codegen pins it with all that it is made of.
CGO_ENABLED=0 go -C scripts/codegen build -trimpath -o "$tools/" github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen
for side in server client; do
	"$tools/oapi-codegen" -config "scripts/codegen/$side.yaml" schemas/openapi.yaml
done

install buf github.com/bufbuild/buf/cmd/buf "$buf"
install protoc-gen-go google.golang.org/protobuf/cmd/protoc-gen-go "$protobuf"
install protoc-gen-go-grpc google.golang.org/grpc/cmd/protoc-gen-go-grpc "$grpc"

cd plugin/internal/proto
export BUF_CACHE_DIR="$root/.work/buf"
PATH=$tools:$PATH
"$tools/buf" lint
"$tools/buf" generate
