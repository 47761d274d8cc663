package engine

import (
	"context"

	"github.com/moby/buildkit/session/auth"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// credentialServer hands credentials to the daemon, which fetches tokens with them itself. BuildKit's own
// provider is not used because it writes a seed file into the user's Docker folder.
type credentialServer struct {
	auth.UnimplementedAuthServer
	lookup func(ctx context.Context, host string) (username, password string, err error)
}

// Register adds the service to a session.
func (s *credentialServer) Register(server *grpc.Server) { auth.RegisterAuthServer(server, s) }

// Credentials answers the daemon's question for a host.
func (s *credentialServer) Credentials(ctx context.Context, req *auth.CredentialsRequest) (*auth.CredentialsResponse, error) {
	if s.lookup == nil {
		return &auth.CredentialsResponse{}, nil
	}
	username, password, err := s.lookup(ctx, req.Host)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &auth.CredentialsResponse{Username: username, Secret: password}, nil
}

// FetchToken is left to the daemon.
func (s *credentialServer) FetchToken(context.Context, *auth.FetchTokenRequest) (*auth.FetchTokenResponse, error) {
	return nil, errDaemonFetches
}

// GetTokenAuthority is left to the daemon.
func (s *credentialServer) GetTokenAuthority(context.Context, *auth.GetTokenAuthorityRequest) (*auth.GetTokenAuthorityResponse, error) {
	return nil, errDaemonFetches
}

// VerifyTokenAuthority is left to the daemon.
func (s *credentialServer) VerifyTokenAuthority(context.Context, *auth.VerifyTokenAuthorityRequest) (*auth.VerifyTokenAuthorityResponse, error) {
	return nil, errDaemonFetches
}

var errDaemonFetches = status.Error(codes.Unavailable, "tokens are fetched by the daemon")
