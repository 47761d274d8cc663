"""A certificate for a machine, by an authority of our own or a given one. All of it is made and kept on opera's machine."""
import contextlib
import datetime
import fcntl
import ipaddress
import json
import os

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from node_operation import OURS, Failure, path_of, private_folder, write_private

FOLDER = "secrets"
CA_DAYS = 3650
CLOCKS = datetime.timedelta(minutes=5)  # by which another machine's may be behind
SUBJECT = {
    "common_name": NameOID.COMMON_NAME, "country_name": NameOID.COUNTRY_NAME, "state_or_province_name": NameOID.STATE_OR_PROVINCE_NAME,
    "locality_name": NameOID.LOCALITY_NAME, "organization_name": NameOID.ORGANIZATION_NAME,
    "organizational_unit_name": NameOID.ORGANIZATIONAL_UNIT_NAME, "email_address": NameOID.EMAIL_ADDRESS,
}


def create(op):
    folder = private_folder(FOLDER)
    with _lock():
        files = _Files(op, folder)
        given = {name: op.inputs.get(name) or "" for name in ("cert", "key", "ca_cert", "ca_key")}
        if bool(given["cert"]) != bool(given["key"]):
            raise Failure("/cert and /key go together")
        if not given["cert"] and bool(given["ca_cert"]) != bool(given["ca_key"]):
            raise Failure("/ca_cert and /ca_key go together")
        certificate = _take(given, files) if given["cert"] else _issue(op, given, files)
        files.record()
    return {"ca_certificate": files.path("ca.crt"), "expires": certificate.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ")}


def delete(op):
    folder = private_folder(FOLDER)
    if op.inputs.get("removal") == "delete":
        with _lock():
            files = _Files(op, folder)
            for name in [*files.made, files.about]:
                if os.path.exists(files.path(name)):
                    os.remove(files.path(name))
                    op.changed = True
    if not os.listdir(folder):
        os.rmdir(folder)
    return {}


@contextlib.contextmanager
def _lock():
    """Keeps two nodes from making an authority each."""
    with open(os.path.join(private_folder(OURS), "certificates.lock"), "w", encoding="utf-8") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


class _Files:
    """The files of a certificate node, which of them it made, and what it made them for."""

    def __init__(self, op, folder):
        self.op, self.folder = op, folder
        self.name = op.inputs.get("name") or "server"
        self.about = f".{self.name}.json"
        try:
            known = json.loads(self.read(self.about) or b"{}")
        except ValueError:
            known = {}
        self.made, self.wanted = set(known.get("made") or []), known.get("wanted")
        self._known = known

    def path(self, name):
        return os.path.join(self.folder, name)

    def read(self, name):
        try:
            with open(self.path(name), "rb") as f:
                return f.read()
        except FileNotFoundError:
            return b""

    def write(self, name, content):
        if self.read(name) != content:
            write_private(self.path(name), content, 0o644 if name.endswith(".crt") else 0o600)
            self.op.changed = True
        self.made.add(name)

    def record(self):
        known = {"made": sorted(self.made), "wanted": self.wanted}
        if known != self._known:
            write_private(self.path(self.about), json.dumps(known))


def _take(given, files):
    """A certificate that is given, as it is."""
    cert, key = _given(given["cert"], "/cert"), _given(given["key"], "/key")
    certificate = _certificate(cert, "/cert")
    if _key(key, "/key").public_key() != certificate.public_key():
        raise Failure(f"/key: {given['key']} is not the key of the certificate {given['cert']}")
    if certificate.not_valid_after_utc <= _now():
        raise Failure(f"/cert: {given['cert']} expired at {certificate.not_valid_after_utc:%Y-%m-%d}")
    files.write(f"{files.name}.crt", cert)
    files.write(f"{files.name}.key", key)
    # Who has no authority given trusts the certificate itself.
    files.write("ca.crt", _given(given["ca_cert"], "/ca_cert") if given["ca_cert"] else cert)
    files.wanted = None
    return certificate


def _issue(op, given, files):
    """A certificate by an authority: the one that is there if it still is what is wanted, otherwise a new one."""
    days = int(op.inputs.get("days") or 365)
    if given["ca_cert"]:
        ca_pem = _given(given["ca_cert"], "/ca_cert")
        ca, ca_key = _certificate(ca_pem, "/ca_cert"), _key(_given(given["ca_key"], "/ca_key"), "/ca_key")
        if ca_key.public_key() != ca.public_key():
            raise Failure(f"/ca_key: {given['ca_key']} is not the key of the certificate {given['ca_cert']}")
        files.write("ca.crt", ca_pem)
    else:
        ca, ca_key = _authority(files, days)
    listed = [one.strip() for n in op.inputs.get("names") or [] for one in str(n).split(",")]
    names = sorted({op.address, op.private_address(), "localhost", "127.0.0.1", *(n for n in listed if n)})
    subject = {field: str(op.inputs.get(field) or "") for field in SUBJECT}
    wanted = {"names": names, "subject": subject, "days": days, "rotation": str(op.inputs.get("rotation") or "")}
    there = _there(files, ca)
    if there and files.wanted == wanted and there.not_valid_after_utc - _now() >= datetime.timedelta(days=days) / 3:
        return there
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder().subject_name(_name({**subject, "common_name": subject["common_name"] or op.address})).issuer_name(ca.subject)
        .public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(_now() - CLOCKS).not_valid_after(_now() + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([_general(n) for n in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    files.write(f"{files.name}.key", _pem(key))
    files.write(f"{files.name}.crt", certificate.public_bytes(serialization.Encoding.PEM))
    files.wanted = wanted
    return certificate


def _authority(files, days):
    """The authority of our own and its key, which are made if they are not there or would not last."""
    cert, key = files.read("ca.crt"), files.read("ca.key")
    if cert and key:
        ca, ca_key = _certificate(cert, "ca.crt"), _key(key, "ca.key")
        if ca.not_valid_after_utc - _now() >= datetime.timedelta(days=days) and ca_key.public_key() == ca.public_key():
            return ca, ca_key
    ca_key = ec.generate_private_key(ec.SECP256R1())
    # Another name for each: who knows two of them takes the right one.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"image-builder {os.urandom(4).hex()}")])
    ca = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(ca_key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(_now() - CLOCKS).not_valid_after(_now() + datetime.timedelta(days=max(CA_DAYS, 2 * days)))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    files.write("ca.key", _pem(ca_key))
    files.write("ca.crt", ca.public_bytes(serialization.Encoding.PEM))
    return ca, ca_key


def _there(files, ca):
    """The certificate that is there, if it is complete and of this authority."""
    cert, key = files.read(f"{files.name}.crt"), files.read(f"{files.name}.key")
    if not cert or not key:
        return None
    try:
        certificate = _certificate(cert, "")
        certificate.verify_directly_issued_by(ca)
        return certificate if _key(key, "").public_key() == certificate.public_key() else None
    except (Failure, InvalidSignature, ValueError, TypeError):
        return None


def _given(path, pointer):
    try:
        with open(path_of(path), "rb") as f:
            return f.read()
    except OSError as e:
        raise Failure(f"{pointer}: {e.strerror}: {path_of(path)}") from e


def _certificate(pem, pointer):
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as e:
        raise Failure(f"{pointer}: no certificate in PEM") from e


def _key(pem, pointer):
    try:
        return serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as e:
        raise Failure(f"{pointer}: no private key in PEM without a password") from e


def _pem(key):
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _name(subject):
    try:
        return x509.Name([x509.NameAttribute(oid, subject[field]) for field, oid in SUBJECT.items() if subject[field]])
    except ValueError as e:
        raise Failure(f"the certificate's fields: {e}") from e


def _general(name):
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError as e:
        raise Failure(f"/names: {name}: {e}") from e


def _usage(**yes):
    fields = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{field: yes.get(field, False) for field in fields})


def _now():
    return datetime.datetime.now(datetime.timezone.utc)
