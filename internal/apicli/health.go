package apicli

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"

	"imagebuilder/internal/command"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/service"
	"imagebuilder/internal/service/api"
)

const (
	// healthWithin is longer than /readyz takes at most, and shorter than a container's health check waits.
	healthWithin = 8 * time.Second
	// maxHealth is more than /readyz ever answers.
	maxHealth = 64 << 10
)

// healthOptions are the options of health.
type healthOptions struct {
	listen, cert string
	buildkit     string
}

func (a *app) healthCommand() *cobra.Command {
	o := &healthOptions{}
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Ask the service on this machine whether it is ready",
		Long: `Ask the service that runs beside it, in the same container or on this machine, whether it is ready: what /readyz looks at. It
finds the service by the settings of 'serve', from the same environment, and asks over loopback, by https where the service has a
certificate. It is for health checks: the exit code is 0 when the service is ready and 1 otherwise, and what is missing stands on
standard error.

With --buildkit it asks a BuildKit daemon instead.`,
		Example: `  image-builder-api health
  IMAGE_BUILDER_LISTEN=:8443 IMAGE_BUILDER_TLS_CERT=/run/secrets/server.crt image-builder-api health
  image-builder-api health --buildkit unix:///home/builder/buildkitd.sock`,
		Args: command.Arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), healthWithin)
			defer cancel()
			if o.buildkit != "" {
				return askBuildKit(ctx, o.buildkit)
			}
			return askService(ctx, o)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.listen, "listen", service.DefaultListen, "`ADDRESS` that the service answers at, as given to serve")
	flags.StringVar(&o.cert, "tls-cert", "", "`FILE` with the service's certificate, as given to serve: it is asked by https then")
	flags.StringVar(&o.buildkit, "buildkit", "", "`ADDRESS` of a BuildKit daemon to ask instead, as unix:///path")
	command.Environment(flags, "listen", "IMAGE_BUILDER_LISTEN")
	command.Environment(flags, "tls-cert", "IMAGE_BUILDER_TLS_CERT")
	return cmd
}

// notWell is an error with the exit code of a failed health check.
func notWell(format string, args ...any) error {
	return fault.New(fault.NotFound, format, args...)
}

// askService asks /readyz.
func askService(ctx context.Context, o *healthOptions) error {
	address, err := loopback(o.listen)
	if err != nil {
		return err
	}
	url := "http://" + address + "/readyz"
	transport := &http.Transport{DisableKeepAlives: true} // no proxy: it is this machine
	if o.cert != "" {
		url = "https://" + address + "/readyz"
		// The certificate need not name loopback, and no secret is told: what is asked is whether it answers.
		transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // G402: see above
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fault.New(fault.Invalid, "--listen %s: %w", o.listen, err)
	}
	answer, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return notWell("the service does not answer: %w", err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxHealth))
	if err != nil {
		return notWell("the service does not answer: %w", err)
	}
	if answer.StatusCode == http.StatusOK {
		return nil
	}
	var health api.Health
	if err := json.Unmarshal(body, &health); err != nil || len(health.Checks) == 0 {
		return notWell("the service is not ready: %s answers %s", url, answer.Status)
	}
	var missing []string
	for _, check := range health.Checks {
		if !check.Ok {
			missing = append(missing, check.Name+": "+check.Detail)
		}
	}
	return notWell("the service is not ready: %s", strings.Join(missing, "; "))
}

// loopback is how a service on this machine is reached that listens at an address.
func loopback(listen string) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", fault.New(fault.Invalid, "--listen %s: %w", listen, err)
	}
	// Who listens at every address of the newer kind listens at those of the older one too.
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), nil
}

// askBuildKit asks a BuildKit daemon whether it serves.
func askBuildKit(ctx context.Context, address string) error {
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fault.New(fault.Invalid, "--buildkit %s: %w", address, err)
	}
	defer connection.Close()
	answer, err := grpc_health_v1.NewHealthClient(connection).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		return notWell("the BuildKit daemon at %s does not answer: %w", address, err)
	}
	if status := answer.GetStatus(); status != grpc_health_v1.HealthCheckResponse_SERVING {
		return notWell("the BuildKit daemon at %s is not ready: it answers %s", address, status)
	}
	return nil
}
