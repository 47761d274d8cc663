package imagenode_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/imagenode"
)

// FuzzRequest: whatever the inputs are, they become a request that the plugin takes, or an error that blames them.
func FuzzRequest(f *testing.F) {
	f.Add(`{` + source + `,"target":` + target(`{"image":"app","tag":"1"}`) + `,"base_ref":"a@sha256:0","custom_workdir":"w","owner":"o"}`)
	f.Add(`{"source":{"get_input":"x"},"target":{"images":[{"concat":[]},{}]},"base_target":{"registry":{"url":"r:1"},"images":[{"image":"b","tag":"1"}]},"base_tag":"1"}`)
	f.Add(`{"target":` + target(`{"image":"app","tag":"1"}`) + `,"removal":"keep"}`)
	f.Add(`[]`)
	f.Fuzz(func(t *testing.T, inputs string) {
		for _, name := range imagenode.Operations() {
			request, err := imagenode.Request(operation(name, inputs))
			if err != nil {
				require.Equal(t, fault.Invalid, fault.KindOf(err), "%v", err)
				continue
			}
			require.True(t, json.Valid(request.Inputs))
			if request.Operation == imagenode.Create {
				_, err := buildparams.Decode(request.Inputs, "build_params.json")
				require.NoError(t, err)
			}
		}
	})
}
