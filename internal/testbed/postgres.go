package testbed

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// PostgresDatabase is how a database is reached.
type PostgresDatabase struct {
	Host                 string // 127.0.0.1
	Port                 int
	Name, User, Password string
	Socket               string // the folder of the server's Unix socket, which can be the Host too
}

// PostgresServer is a PostgreSQL server with its own folder and port. It ends, and its folder is removed, when Close is
// called or this process ends, however it ends.
type PostgresServer struct {
	host     PostgresDatabase
	programs string
	folder   string
	keeper   *exec.Cmd
	words    io.WriteCloser
	answers  *bufio.Reader
}

const (
	// postgresKeeper makes a server's data, does to the server what it is told line by line, and ends it when there is
	// nobody left to tell. A shell: it outlives this process, whose end closes its standard input.
	// --no-sync: nobody needs the data after a power cut.
	postgresKeeper = `trap '' PIPE # there may be nobody left to answer to
folder=$1 initdb=$2 user=$3; shift 3
if "$initdb" --no-sync --pgdata="$folder/data" --username="$user" --pwfile="$folder/password" --auth=scram-sha-256 \
	--encoding=UTF8 --locale=C --no-instructions </dev/null >"$folder/log" 2>&1; then echo done; else echo failed; fi
pid=
while read -r word; do
	case $word in
	start) "$@" </dev/null >>"$folder/log" 2>&1 & pid=$! ;;
	*) kill -s "$word" "$pid"; wait "$pid"; pid= ;;
	esac
	echo done
done
[ -z "$pid" ] || { kill -s QUIT "$pid"; wait "$pid"; }
rm -rf "$folder"`
	// postgresUp is enough for a start after a crash on a busy machine.
	postgresUp = 30 * time.Second
	// postgresPorts is how often a port is tried: another process may take it between its choice and its use.
	postgresPorts = 5
)

var errPortTaken = errors.New("another process has taken the port")

// sharedPostgres is the one server of a test process. It is not closed: it ends with the process.
var sharedPostgres = sync.OnceValues(StartPostgres)

// Postgres makes an empty database on a PostgreSQL server that all tests of this process share, for as long as a test runs.
func Postgres(t T) PostgresDatabase {
	t.Helper()
	server, err := sharedPostgres()
	if err != nil {
		t.Fatalf("%v", err)
	}
	return server.Database(t)
}

// NewPostgresServer is StartPostgres for as long as a test runs, for tests that stop and kill it.
func NewPostgresServer(t T) *PostgresServer {
	t.Helper()
	server, err := StartPostgres()
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(server.Close)
	return server
}

// StartPostgres starts a server of its own. PostgreSQL does not run as root: there it runs as postgres, whom Debian's package makes.
func StartPostgres() (*PostgresServer, error) {
	for try := 1; ; try++ {
		s, err := startPostgres()
		if !errors.Is(err, errPortTaken) || try == postgresPorts {
			return s, err
		}
	}
}

func startPostgres() (*PostgresServer, error) {
	programs, err := postgresPrograms()
	if err != nil {
		return nil, err
	}
	// Not t.TempDir: a socket's path has 107 bytes at most.
	folder, err := os.MkdirTemp("", "ib-postgres-")
	if err != nil {
		return nil, err
	}
	s := &PostgresServer{programs: programs, folder: folder, host: PostgresDatabase{Host: "127.0.0.1", User: "builder", Password: uuid.NewString(), Socket: folder}}
	err = s.keep()
	if err == nil {
		err = s.Start()
	}
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("start a PostgreSQL server for tests: %w", err)
	}
	return s, nil
}

// postgresPrograms is the folder of the newest PostgreSQL's programs.
func postgresPrograms() (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb") // the pattern is right
	newest, folder := 0.0, ""
	for _, path := range found {
		dir := filepath.Dir(path)
		if version, err := strconv.ParseFloat(filepath.Base(filepath.Dir(dir)), 64); err == nil && version > newest {
			newest, folder = version, dir
		}
	}
	if folder != "" {
		return folder, nil
	}
	path, err := exec.LookPath("initdb")
	if err != nil {
		return "", errors.New("no PostgreSQL server is installed; `scripts/setup.sh packages postgresql` gets it")
	}
	return filepath.Dir(path), nil
}

// keep chooses a port, and starts the keeper, which makes the server's data.
func (s *PostgresServer) keep() error {
	secret := filepath.Join(s.folder, "password")
	if err := os.WriteFile(secret, []byte(s.host.Password), 0o600); err != nil {
		return err
	}
	if err := giveToPostgres(s.folder, secret); err != nil {
		return err
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	s.host.Port = port
	keeper := exec.Command("/bin/sh", "-c", postgresKeeper, "postgres-keeper", s.folder, filepath.Join(s.programs, "initdb"), s.host.User,
		filepath.Join(s.programs, "postgres"), "-D", filepath.Join(s.folder, "data"), "-p", strconv.Itoa(port),
		"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="+s.folder, "-c", "max_connections=300",
		// A kill of processes loses nothing that was written, synced or not: that takes a power cut. It may end a write in the middle of
		// a page, which recovery mends by full_page_writes.
		"-c", "fsync=off")
	keeper.Dir = "/" // it may not enter the folder where the test runs
	if err := asPostgres(keeper); err != nil {
		return err
	}
	out, err := keeper.StdoutPipe()
	if err != nil {
		return err
	}
	if s.words, err = keeper.StdinPipe(); err != nil {
		return err
	}
	s.answers = bufio.NewReader(out)
	if err := keeper.Start(); err != nil {
		return err
	}
	s.keeper = keeper
	answer, err := s.answers.ReadString('\n')
	if err == nil && answer != "done\n" {
		log, _ := os.ReadFile(s.log()) // that it failed is said anyway
		err = fmt.Errorf("initdb: %s\n%s", answer, log)
	}
	return errors.Join(err, os.Remove(secret))
}

func (s *PostgresServer) log() string { return filepath.Join(s.folder, "log") }

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return 0, errors.Join(err, l.Close())
	}
	number, err := strconv.Atoi(port)
	return number, errors.Join(err, l.Close())
}

func (s *PostgresServer) say(word string) error {
	if _, err := io.WriteString(s.words, word+"\n"); err != nil {
		return err
	}
	_, err := s.answers.ReadString('\n')
	return err
}

// Start starts the server, and waits until it answers.
func (s *PostgresServer) Start() error {
	if err := s.say("start"); err != nil {
		return fmt.Errorf("start PostgreSQL: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), postgresUp)
	defer cancel()
	for {
		err := s.query(ctx, "postgres", "select 1")
		if err == nil {
			return nil
		}
		log, _ := os.ReadFile(s.log()) // the other error is what counts
		if strings.Contains(string(log), "could not create any TCP/IP sockets") {
			return errPortTaken
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("start PostgreSQL: %w\n%s", err, log)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Stop ends the server as an operator does: transactions that run are rolled back.
func (s *PostgresServer) Stop() error { return s.say("INT") }

// Kill ends the server at once, as by a crash: it recovers when it is started again.
func (s *PostgresServer) Kill() error { return s.say("QUIT") }

// Close ends the server and removes its folder.
func (s *PostgresServer) Close() {
	if s.keeper != nil {
		_, _ = s.words.Close(), s.keeper.Wait() // it may have ended before
	}
	_ = os.RemoveAll(s.folder) // the keeper may not remove the folder itself where not everybody may write
}

// Database makes an empty database for as long as a test runs.
func (s *PostgresServer) Database(t T) PostgresDatabase {
	t.Helper()
	database := s.host
	database.Name = "test_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	if err := s.query(context.Background(), "postgres", "create database "+database.Name); err != nil {
		t.Fatalf("make a database: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), postgresUp)
		defer cancel()
		_ = s.query(ctx, "postgres", "drop database "+database.Name+" with (force)") // the server may be stopped; its folder goes anyway
	})
	return database
}

// query carries out one statement on a database of the server.
func (s *PostgresServer) query(ctx context.Context, database, text string) error {
	cfg, err := pgx.ParseConfig(fmt.Sprintf("host=%s port=%d user=%s password=%s dbname=%s sslmode=disable", s.host.Host, s.host.Port, s.host.User, s.host.Password, database))
	if err != nil {
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, text)
	return errors.Join(err, conn.Close(ctx))
}
