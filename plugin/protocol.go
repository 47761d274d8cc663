package plugin

import (
	"context"
	"errors"
	"time"

	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"imagebuilder/plugin/internal/pluginpb"
)

// ProtocolVersion is the version of the wire between host and plugin; both sides have to agree.
// It goes up when an old plugin could misunderstand a new host, or the other way round.
const ProtocolVersion = 1

// The magic cookie: a host sets this variable in a plugin's environment. It keeps people from running
// a plugin by hand; it is no protection. That is AutoMTLS, which go-plugin negotiates at every start.
const (
	CookieKey   = "IMAGE_BUILDER_PLUGIN_COOKIE"
	CookieValue = "b8c8f1be-5a3e-4dc0-8a5f-2f6d3c1e9a47"
)

// RunFolderEnv names the folder that the host made for this one plugin process. TMPDIR is the same
// folder. The host removes it when the plugin has ended; the plugin does when its host was killed.
const RunFolderEnv = "IMAGE_BUILDER_RUN_FOLDER"

// DebugEnv names the file that gets everything plugins write on stderr, when Options.DebugFile is not set.
const DebugEnv = "IMAGE_BUILDER_DEBUG"

const (
	// maxMessage is the most bytes that one message may have, each way. Inputs are documents that people
	// write, and a result is about 300 bytes per image and platform; 16 MiB is far above both, and a
	// plugin that sends more has a defect that should not take the host's memory along.
	maxMessage = 16 << 20

	// maxLogData is the most log data in one event; more is sent as several events, in order.
	// It is well below maxMessage and still makes the cost per event negligible.
	maxLogData = 1 << 20

	// maxText is the most bytes of a text for people, as an error message. Nobody reads more.
	maxText = 1 << 20

	// maxCleanUp is how long operations have to end after they were cancelled because the process
	// has to stop. go-plugin gives a process 2 s from the request to stop until it is killed.
	maxCleanUp = 1500 * time.Millisecond

	// service is the name under which go-plugin knows our only service.
	service = "imagebuilder"
)

// bridge makes the service known to go-plugin on both sides.
type bridge struct {
	goplugin.NetRPCUnsupportedPlugin
	server pluginpb.PluginServer // nil on the host's side
}

func (b *bridge) GRPCServer(_ *goplugin.GRPCBroker, s *grpc.Server) error {
	if b.server == nil {
		return errors.New("this side is the host")
	}
	pluginpb.RegisterPluginServer(s, b.server)
	return nil
}

func (b *bridge) GRPCClient(_ context.Context, _ *goplugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return pluginpb.NewPluginClient(conn), nil
}

func handshake() goplugin.HandshakeConfig {
	return goplugin.HandshakeConfig{
		ProtocolVersion: ProtocolVersion, MagicCookieKey: CookieKey, MagicCookieValue: CookieValue,
	}
}

func pluginSet(server pluginpb.PluginServer) goplugin.PluginSet {
	return goplugin.PluginSet{service: &bridge{server: server}}
}
