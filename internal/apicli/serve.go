package apicli

import (
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"imagebuilder/internal/command"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/service"
	"imagebuilder/internal/service/store"
	"imagebuilder/internal/service/telemetry"
)

// serveOptions are the options of serve.
type serveOptions struct {
	config   service.Config
	role     service.Role
	database databaseFlags
	access   accessFlags
	settings command.SettingsFlags
	egress   prefixes
	proxies  prefixes
	logLimit command.Size
	success  days
	failed   days
	timeout  days
	queueTTL days
	level    slog.Level
}

func (a *app) serveCommand() *cobra.Command {
	o := &serveOptions{}
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Answer requests, build, or both",
		Long: `Answer requests (role api), build what is queued (role worker), or both (role all).

Without a database host everything runs in one process, and its records, keys and sealed secrets are in the data folder; an
API key is made and printed once. With PostgreSQL there may be any number of processes of each role, on any hosts.

SIGTERM ends it: builds that run may go on for --grace, and are handed back to the queue then. A second one ends it at
once; another worker takes the builds over within half a minute.`,
		Example: `  image-builder-api serve
  image-builder-api serve --listen :8080 --public-url https://builds.example.com --tls-cert cert.pem --tls-key key.pem
  image-builder-api serve --role api --database-host db --database-user ib --seal-to age1…
  image-builder-api serve --role worker --database-host db --database-user ib --identities identities.txt --concurrency 4`,
		Args: command.Arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.serve(cmd, o) },
	}
	o.add(cmd)
	return cmd
}

func (o *serveOptions) add(cmd *cobra.Command) {
	flags, c := cmd.Flags(), &o.config
	o.role, o.logLimit = service.RoleAll, service.DefaultLogLimit
	o.success, o.failed = days(30*aDay), days(30*aDay)
	o.timeout, o.queueTTL = days(service.DefaultTimeout), days(service.DefaultQueueTTL)
	command.ChoiceFlag(cmd, command.NewChoice(&o.role, service.RoleAll, service.RoleAPI, service.RoleWorker), "role", "", "what this process does")
	flags.StringVar(&c.Listen, "listen", service.DefaultListen, "`ADDRESS` to answer at, as :8080 for every network")
	flags.StringVar(&c.MetricsListen, "metrics-listen", "", "another `ADDRESS` for /metrics, as 127.0.0.1:9090; by default that of --listen")
	flags.StringVar(&c.TLSCert, "tls-cert", "", "PEM `FILE` with the certificate for https, and those above it")
	flags.StringVar(&c.TLSKey, "tls-key", "", "PEM `FILE` with the certificate's key")
	flags.StringVar(&c.PublicURL, "public-url", "", "`URL` by which people reach the service, as https://builds.example.com")
	flags.BoolVar(&c.Migrate, "migrate", false, "bring PostgreSQL's schema up to date first, as 'migrate up' does")
	flags.StringSliceVar(&c.SealTo, "seal-to", nil, "age `RECIPIENT` of the workers, from keygen; may be given more than once")
	flags.StringVar(&c.Identities, "identities", "", "`FILE` with the workers' age identities, from keygen")
	flags.IntVar(&c.Concurrency, "concurrency", service.DefaultConcurrency, "builds at once in this process")
	flags.IntVar(&c.MaxRunning, "max-running", 0, "builds of one caller at once, over all workers; 0: no limit")
	flags.IntVar(&c.MaxQueued, "max-queued", service.DefaultMaxQueued, "builds of one caller that may wait; -1: no limit")
	flags.IntVar(&c.MaxAttempts, "max-attempts", service.DefaultMaxAttempts, "how often a build may be begun whose worker, plugin or engine dies")
	flags.Float64Var(&c.RateLimit, "rate-limit", service.DefaultRateLimit, "requests a second of one caller; -1: no limit")
	flags.Var(&o.logLimit, "log-limit", "most that is kept of one build's output")
	flags.Var(&o.timeout, "max-time", "longest that a build may run")
	flags.Var(&o.queueTTL, "max-wait", "longest that a build may wait")
	flags.Var(&o.success, "keep-successful", "how long records and logs of successful builds are kept")
	flags.Var(&o.failed, "keep-failed", "how long those of failed and cancelled ones are")
	flags.DurationVar(&c.Grace, "grace", service.DefaultGrace, "how long builds may go on when the process is asked to end")
	flags.Var(&o.egress, "allow-egress", "`NETWORK`s that are not public and that builds may reach all the same, as 10.0.0.0/8; all lifts every restriction")
	flags.Var(&o.proxies, "trust-proxy", "`NETWORK` of reverse proxies whose X-Forwarded-For is believed, as 10.0.0.5; may be given more than once")
	flags.StringSliceVar(&c.PlainRegistries, "plain-registry", nil, "`HOST` of a registry that documents may push to without https; may be given more than once; * is every host")
	flags.TextVar(&o.level, "log-level", slog.LevelInfo, "least that is logged, as JSON on standard error: debug, info, warn or error")
	for flag, variable := range map[string]string{
		"role": "IMAGE_BUILDER_ROLE", "listen": "IMAGE_BUILDER_LISTEN", "metrics-listen": "IMAGE_BUILDER_METRICS_LISTEN",
		"tls-cert": "IMAGE_BUILDER_TLS_CERT", "tls-key": "IMAGE_BUILDER_TLS_KEY", "public-url": "IMAGE_BUILDER_PUBLIC_URL",
		"migrate": "IMAGE_BUILDER_MIGRATE", "seal-to": "IMAGE_BUILDER_SEAL_TO", "identities": "IMAGE_BUILDER_IDENTITIES",
		"concurrency": "IMAGE_BUILDER_CONCURRENCY", "max-running": "IMAGE_BUILDER_MAX_RUNNING", "max-queued": "IMAGE_BUILDER_MAX_QUEUED",
		"max-attempts": "IMAGE_BUILDER_MAX_ATTEMPTS", "rate-limit": "IMAGE_BUILDER_RATE_LIMIT", "log-limit": "IMAGE_BUILDER_LOG_LIMIT",
		"max-time": "IMAGE_BUILDER_MAX_TIME", "max-wait": "IMAGE_BUILDER_MAX_WAIT", "keep-successful": "IMAGE_BUILDER_KEEP_SUCCESSFUL",
		"keep-failed": "IMAGE_BUILDER_KEEP_FAILED", "grace": "IMAGE_BUILDER_GRACE", "allow-egress": "IMAGE_BUILDER_ALLOW_EGRESS",
		"plain-registry": "IMAGE_BUILDER_PLAIN_REGISTRIES", "trust-proxy": "IMAGE_BUILDER_TRUST_PROXY", "log-level": "IMAGE_BUILDER_LOG_LEVEL",
	} {
		command.Environment(flags, flag, variable)
	}
	o.database.add(cmd)
	o.access.add(cmd)
	o.settings.Add(cmd)
}

// serve makes the configuration of what flags and variables say, and runs the service.
func (a *app) serve(cmd *cobra.Command, o *serveOptions) (err error) {
	for _, name := range []string{"concurrency", "max-queued", "max-attempts", "rate-limit", "grace"} {
		if value := cmd.Flags().Lookup(name).Value.String(); value == "0" || value == "0s" {
			return fault.New(fault.Invalid, "--%s 0: it has to be more", name).WithHint("%s", map[bool]string{true: "-1 is no limit"}[name == "max-queued" || name == "rate-limit"])
		}
	}
	c := o.config
	c.Role, c.LogLimit, c.Egress, c.Proxies = o.role, int64(o.logLimit), o.egress, o.proxies
	c.Timeout, c.QueueTTL = noLimit(o.timeout), noLimit(o.queueTTL)
	c.Retention = store.Retention{Success: time.Duration(o.success), Failed: time.Duration(o.failed)}
	if c.DataDir, err = o.database.folder(); err != nil {
		return err
	}
	if c.Postgres, err = o.database.postgres(a.LookupEnv); err != nil {
		return err
	}
	if c.Auth, c.SignIn, err = o.access.config(a.LookupEnv); err != nil {
		return err
	}
	c.ProviderName = o.access.webName
	if c.Settings, err = o.settings.Settings(); err != nil {
		return err
	}
	if c.Plugins, err = a.FindPlugins(o.settings.Plugin); err != nil && c.Role != service.RoleAPI {
		return err
	}
	c.Version, c.Now, c.Out, c.LookupEnv, c.Environ = a.Version, a.Now, a.Out, a.LookupEnv, os.Environ()
	c.Logger = telemetry.NewLogger(a.Err, o.level)
	return service.Run(cmd.Context(), c)
}

// noLimit is what no limit is for the service, where zero is the default.
func noLimit(d days) time.Duration {
	if d == 0 {
		return -1
	}
	return time.Duration(d)
}
