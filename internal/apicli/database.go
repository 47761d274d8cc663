package apicli

import (
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"imagebuilder/internal/command"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/service"
	"imagebuilder/internal/service/store"
)

// databaseFlags say where the database is.
type databaseFlags struct {
	dataDir      string
	host         string
	port         int
	name         string
	user         string
	passwordFile string
	sslMode      string
	timeout      seconds
	connections  int
}

func (d *databaseFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&d.dataDir, "data-dir", "", "`FOLDER` for keys and, without PostgreSQL, the database; "+
		"by default /var/lib/image-builder/service for root, otherwise ~/.local/share/image-builder/service")
	flags.StringVar(&d.host, "database-host", "", "`HOST` of PostgreSQL, or the folder of its socket; without it, SQLite in the data folder")
	flags.IntVar(&d.port, "database-port", 5432, "port of PostgreSQL")
	flags.StringVar(&d.name, "database-name", "image_builder", "name of the database")
	flags.StringVar(&d.user, "database-user", "", "user of the database; its password comes from "+passwordVariable+" or a file")
	flags.StringVar(&d.passwordFile, "database-password-file", "", "`FILE` with the password of the database")
	flags.StringVar(&d.sslMode, "database-sslmode", "prefer", "disable, prefer, require, verify-ca or verify-full")
	d.timeout = seconds(10 * time.Second)
	flags.Var(&d.timeout, "database-timeout", "how long the database may take to answer a connection, as 10s; a plain number is seconds")
	flags.IntVar(&d.connections, "database-connections", 20, "most connections of this process to the database")
	command.Environment(flags, "data-dir", "IMAGE_BUILDER_DATA_DIR")
	// The names of the documents that the service follows, and those that the original's code read instead.
	command.Environment(flags, "database-host", "IMAGEBUILDER_DATABASE_IP", "IMAGEBUILDER_DATABASE_URL")
	command.Environment(flags, "database-port", "IMAGEBUILDER_DATABASE_PORT")
	command.Environment(flags, "database-name", "IMAGEBUILDER_DATABASE_NAME", "IMAGEBUILDER_DATABASE_DB")
	command.Environment(flags, "database-user", "IMAGEBUILDER_DATABASE_USER")
	command.Environment(flags, "database-password-file", "IMAGEBUILDER_DATABASE_PASSWORD_FILE")
	command.Environment(flags, "database-sslmode", "IMAGEBUILDER_DATABASE_SSLMODE")
	command.Environment(flags, "database-timeout", "IMAGEBUILDER_DATABASE_TIMEOUT")
	command.Environment(flags, "database-connections", "IMAGEBUILDER_DATABASE_CONNECTIONS")
}

// passwordVariable has no flag: everybody on a machine can read command lines.
const passwordVariable = "IMAGEBUILDER_DATABASE_PASSWORD"

// postgres is where PostgreSQL is, and nil where SQLite serves.
func (d *databaseFlags) postgres(lookupEnv func(string) (string, bool)) (*store.Postgres, error) {
	if d.host == "" {
		return nil, nil
	}
	password, err := secretFrom(lookupEnv, passwordVariable, d.passwordFile)
	if err != nil {
		return nil, err
	}
	return &store.Postgres{
		Host: d.host, Port: d.port, Name: d.name, User: d.user, Password: password,
		SSLMode: d.sslMode, Timeout: time.Duration(d.timeout), MaxConns: d.connections,
	}, nil
}

// folder is the data folder.
func (d *databaseFlags) folder() (string, error) {
	if d.dataDir != "" {
		return filepath.Abs(d.dataDir)
	}
	if os.Geteuid() == 0 {
		return "/var/lib/image-builder/service", nil
	}
	if base := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(base) {
		return filepath.Join(base, "image-builder", "service"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fault.New(fault.Invalid, "data folder: %w", err).WithHint("choose one with --data-dir")
	}
	return filepath.Join(home, ".local", "share", "image-builder", "service"), nil
}

// withDatabase opens the database alone, for a verb about it.
func (a *app) withDatabase(cmd *cobra.Command, d *databaseFlags, do func(*store.Store) error) error {
	postgres, err := d.postgres(a.LookupEnv)
	if err != nil {
		return err
	}
	cfg := store.Config{Postgres: postgres}
	if postgres == nil {
		folder, err := d.folder()
		if err != nil {
			return err
		}
		cfg.SQLite = service.DatabaseFile(folder)
		if _, err := os.Stat(cfg.SQLite); err != nil {
			return fault.New(fault.NotFound, "there is no database in %s", folder).
				WithHint("'image-builder-api serve' makes one; for PostgreSQL, set IMAGEBUILDER_DATABASE_IP")
		}
		unlock, err := service.LockDataFolder(folder)
		if err != nil {
			return err
		}
		defer unlock()
	}
	s, err := store.Open(cmd.Context(), cfg)
	if err != nil {
		return err
	}
	defer s.Close()
	return do(s)
}
