"""Backup and restore of a database of PostgreSQL, by the programs in its container."""
import os
import secrets

from node_operation import Failure, path_of, write_private

# The first bytes of a backup, as pg_dump --format=custom begins it.
MAGIC = b"PGDMP"


def backup(op):
    """Writes the database to the file, whole or not at all."""
    path = path_of(op.inputs["file"])
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise Failure(f"/file: there is no folder {folder}")
    done = _run(op, "pg_dump", "--format=custom", "--no-password", "--username", op.inputs["user"], op.inputs["database"])
    if not done.bytes.startswith(MAGIC):
        raise Failure(f"pg_dump in {op.inputs['container']} gave no backup")
    write_private(path, done.bytes)
    op.changed = True
    return {}


def restore(op):
    """Fills a new database from the file, and then has it take the place of the old one. If anything fails, the old one is as it was."""
    path, database, user = path_of(op.inputs["file"]), op.inputs["database"], op.inputs["user"]
    try:
        with open(path, "rb") as f:
            data = f.read()
    except OSError as e:
        raise Failure(f"/file: {e.strerror}: {path}") from e
    if not data.startswith(MAGIC):
        raise Failure(f"/file: {path} is no backup of this kind")
    number = secrets.token_hex(4)
    fresh, old = f"{database}_new_{number}", f"{database}_old_{number}"
    _run(op, "createdb", "--no-password", "--username", user, "--owner", user, "--template", "template0", "--maintenance-db", "template1", fresh)
    try:
        _run(op, "pg_restore", "--exit-on-error", "--single-transaction", "--no-owner", "--no-password", "--username", user, "--dbname", fresh, stdin=data)
        # A database that somebody is connected to cannot be renamed. That it is one transaction means that there always is one of the name.
        _sql(op, f"ALTER DATABASE {_quoted(database)} WITH ALLOW_CONNECTIONS false")
        try:
            _sql(op, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {_literal(database)}")
            _sql(op, f"BEGIN; ALTER DATABASE {_quoted(database)} RENAME TO {_quoted(old)}; ALTER DATABASE {_quoted(fresh)} RENAME TO {_quoted(database)}; COMMIT")
        except Failure:
            _sql(op, f"ALTER DATABASE {_quoted(database)} WITH ALLOW_CONNECTIONS true")
            raise
    except Failure:
        _run(op, "dropdb", "--force", "--if-exists", "--no-password", "--username", user, "--maintenance-db", "template1", fresh, check=False)
        raise
    op.changed = True
    _sql(op, f"DROP DATABASE {_quoted(old)} WITH (FORCE)")
    return {}


def _run(op, *argv, stdin=None, check=True):
    done = op.docker("exec", "--interactive", op.inputs["container"], *argv, stdin=stdin if stdin is not None else b"", check=False)
    if check and done.status != 0:
        said = done.stderr.strip().encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        raise Failure(f"{argv[0]} in {op.inputs['container']}: {said or f'it ended with {done.status}'}")
    return done


def _sql(op, statement):
    return _run(op, "psql", "--no-psqlrc", "--no-password", "--quiet", "--set=ON_ERROR_STOP=1", "--username", op.inputs["user"], "--dbname", "template1", stdin=statement.encode() + b";\n")


def _quoted(name):
    return '"' + name.replace('"', '""') + '"'


def _literal(text):
    return "'" + text.replace("'", "''") + "'"
