package store

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	driver "modernc.org/sqlite"

	"imagebuilder/internal/fault"
)

// failed says what was being done when err came, and gives it its kind; nil stays nil.
func failed(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fault.New(kindOf(err), format+": %w", append(args, err)...).WithHint("%s", fault.As(err).Hint)
}

func kindOf(err error) fault.Kind {
	var known *fault.Error
	var answered *pgconn.PgError
	var file *driver.Error
	var network net.Error
	var connecting *pgconn.ConnectError
	switch {
	case errors.As(err, &known):
		return known.Kind
	case errors.Is(err, context.Canceled):
		return fault.Cancelled
	case errors.As(err, &answered):
		return kindOfPostgres(answered.Code)
	case errors.As(err, &file):
		return kindOfSQLite(file.Code())
	case errors.As(err, &connecting), errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, context.DeadlineExceeded), pgconn.SafeToRetry(err):
		return fault.Unavailable
	}
	return fault.KindOf(err)
}

// kindOfPostgres goes by the class of PostgreSQL's error code (its documentation, appendix A).
func kindOfPostgres(code string) fault.Kind {
	switch {
	case code == "57014": // statement_timeout, or a cancel that is not ours
		return fault.Unavailable
	case code == "42501" || strings.HasPrefix(code, "28"): // a right that is missing; password or user
		return fault.Denied
	case strings.HasPrefix(code, "22"): // a text that no database takes, as one with a zero byte
		return fault.Invalid
	case code == "3D000": // no such database
		return fault.NotFound
	}
	for _, class := range []string{"08", "25P03", "25006", "40", "53", "55P03", "57", "58"} {
		if strings.HasPrefix(code, class) {
			return fault.Unavailable
		}
	}
	return fault.Internal
}

// kindOfSQLite goes by SQLite's primary result code (https://www.sqlite.org/rescode.html).
func kindOfSQLite(code int) fault.Kind {
	const busy, locked, readOnly, ioError, full, cannotOpen = 5, 6, 8, 10, 13, 14
	switch code & 0xff {
	case busy, locked, readOnly, ioError, full, cannotOpen:
		return fault.Unavailable
	}
	return fault.Internal
}

// about is one of the sentinels, about an object.
func about(kind fault.Kind, sentinel error, format string, args ...any) *fault.Error {
	return fault.New(kind, format+": %w", append(args, sentinel)...)
}

// storable is a text as every database takes it: UTF-8 without zero bytes. Output of builds gets into responses.
func storable(text string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
}
