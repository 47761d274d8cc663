package apicli

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"imagebuilder/internal/command"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/auth"
	"imagebuilder/internal/service/seal"
)

func (a *app) keygenCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "keygen",
		Short: "Make the identity that workers open sealed documents with",
		Long: `Make an age identity. Submitted documents hold passwords, and are sealed to its recipient until a worker builds them.
Workers get the identity (--identities), API processes only the recipient (--seal-to): they cannot read documents back.

The identity goes to the file, or to standard output; the recipient to standard error. To change identities, give workers
a file with the new and the old one, one on each line, then API processes the new recipient; when no build of
before waits any more, take the old one out.`,
		Example: `  image-builder-api keygen -o identities.txt
  image-builder-api serve --role worker --identities identities.txt
  image-builder-api serve --role api --seal-to age1…`,
		Args: command.Arguments(0, 0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			identity, recipient, err := seal.GenerateKey()
			if err != nil {
				return err
			}
			if err := a.writeSecret(file, fmt.Sprintf("# recipient: %s\n%s\n", recipient, identity)); err != nil {
				return err
			}
			fmt.Fprintf(a.Err, "recipient: %s\n", recipient)
			return nil
		},
	}
	cmd.Flags().StringVarP(&file, "output-file", "o", "", "new `FILE` for the identity, which only its owner can read; by default standard output")
	return cmd
}

func (a *app) keyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "key",
		Short:   "Make API keys",
		Long:    `Make API keys. The service knows only their hashes, which stand in the file that --api-keys names.`,
		Example: `  image-builder-api key new --name ci --scope builds:submit >>api-keys.yaml`,
		Args:    a.NoSuchCommand,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.keyNewCommand())
	return cmd
}

func (a *app) keyNewCommand() *cobra.Command {
	var entry auth.KeyEntry
	var keep days
	cmd := &cobra.Command{
		Use:   "new",
		Short: "Make an API key and the line of the keys file for it",
		Long: `Make a random API key. The key itself goes to standard error, once; the entry for the file of --api-keys, with the key's hash,
goes to standard output. The service reads the file again when it changes.

Scopes: builds:submit (submit, cancel, retry and delete one's own builds), builds:read (see one's own),
builds:read:all (see everybody's), builds:admin (everything).`,
		Example: `  image-builder-api key new --name ci --scope builds:submit >>api-keys.yaml
  image-builder-api key new --name dashboard --scope builds:read:all >>api-keys.yaml
  image-builder-api key new --name alice --group shop --expires-in 90d >>api-keys.yaml`,
		Args: command.Arguments(0, 0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			if keep > 0 {
				entry.Expires = a.Now().Add(time.Duration(keep)).Truncate(time.Second)
			}
			key, entry, err := auth.NewKey(rand.Reader, entry)
			if err != nil {
				return err
			}
			if _, err := fmt.Fprint(a.Out, entry.Line()); err != nil {
				return fault.New(fault.Unavailable, "print the entry: %w", err)
			}
			fmt.Fprintf(a.Err, "key: %s\n", key)
			return nil
		},
	}
	cmd.Flags().StringVar(&entry.Name, "name", "", "whose key it is; builds made with it belong to this name")
	cmd.Flags().StringSliceVar(&entry.Scopes, "scope", []string{auth.ScopeSubmit}, "what the key allows; may be given more than once")
	cmd.Flags().StringSliceVar(&entry.Groups, "group", nil, "whose builds it sees beside its own; may be given more than once")
	cmd.Flags().Var(&keep, "expires-in", "how long the key is good, as 90d")
	return cmd
}

// writeSecret writes a new file that only its owner can read, or to standard output.
func (a *app) writeSecret(file, text string) error {
	if file == "" {
		_, err := fmt.Fprint(a.Out, text)
		return err
	}
	const onlyOwner = 0o600
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, onlyOwner)
	if errors.Is(err, fs.ErrExist) {
		return fault.New(fault.Invalid, "write %s: there is such a file, and it may hold a key that is in use", file)
	}
	if err == nil {
		_, err = f.WriteString(text)
		if closing := f.Close(); err == nil {
			err = closing
		}
	}
	if err != nil {
		return fault.New(fault.Invalid, "write %s: %w", file, command.Cause(err))
	}
	return nil
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Long:    `Print the version of image-builder-api.`,
		Example: `  image-builder-api version`,
		Args:    command.Arguments(0, 0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(a.Out, a.Version)
			return err
		},
	}
}
