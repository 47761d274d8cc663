package apicli

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"imagebuilder/internal/command"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/store"
)

func (a *app) migrateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the database's schema up to date, or back",
		Long: `Bring the database's schema to the version of this program, take steps back, or show where it is. A service that finds
another schema than its own refuses to start. SQLite's schema is brought up to date by serve itself.`,
		Example: `  IMAGEBUILDER_DATABASE_IP=db IMAGEBUILDER_DATABASE_USER=ib image-builder-api migrate up
  image-builder-api migrate status
  image-builder-api migrate down --steps 1`,
		Args: a.NoSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.migrateUpCommand(), a.migrateDownCommand(), a.migrateStatusCommand())
	return cmd
}

func (a *app) migrateUpCommand() *cobra.Command {
	d := &databaseFlags{}
	cmd := &cobra.Command{
		Use:     "up",
		Short:   "Bring the schema to the version of this program",
		Long:    `Bring the schema to the version of this program. Several processes may do it at once; where nothing is to be done, nothing is.`,
		Example: `  image-builder-api migrate up --database-host db --database-user ib --database-password-file /run/secrets/db`,
		Args:    command.Arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withDatabase(cmd, d, func(s *store.Store) error { return s.Migrate(cmd.Context()) })
		},
	}
	d.add(cmd)
	return cmd
}

func (a *app) migrateDownCommand() *cobra.Command {
	d, steps := &databaseFlags{}, 0
	cmd := &cobra.Command{
		Use:     "down",
		Short:   "Take steps of the schema back, with the data in them",
		Long:    `Take the last steps of the schema back, with what is stored in them. No service may run meanwhile.`,
		Example: `  image-builder-api migrate down --steps 1`,
		Args:    command.Arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if steps < 1 {
				return fault.New(fault.Invalid, "--steps %d: how many steps go back must be said", steps).WithHint("'image-builder-api migrate status' lists them")
			}
			return a.withDatabase(cmd, d, func(s *store.Store) error { return s.MigrateDown(cmd.Context(), steps) })
		},
	}
	d.add(cmd)
	cmd.Flags().IntVar(&steps, "steps", 0, "how many steps go back")
	return cmd
}

func (a *app) migrateStatusCommand() *cobra.Command {
	d := &databaseFlags{}
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Show the steps of the schema",
		Long:    `Show the steps of the schema, and which of them the database has taken.`,
		Example: `  image-builder-api migrate status`,
		Args:    command.Arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withDatabase(cmd, d, func(s *store.Store) error { return a.printSteps(cmd, s) })
		},
	}
	d.add(cmd)
	return cmd
}

// printSteps prints the steps of a schema.
func (a *app) printSteps(cmd *cobra.Command, s *store.Store) error {
	steps, err := s.Status(cmd.Context())
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "VERSION\tNAME\tAPPLIED")
	for _, step := range steps {
		applied := "-"
		if step.Applied {
			applied = step.AppliedAt.UTC().Format(time.RFC3339)
		}
		fmt.Fprintf(table, "%d\t%s\t%s\n", step.Version, step.Name, applied)
	}
	return table.Flush()
}
