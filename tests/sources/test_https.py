"""HTTPS with a certificate of one's own."""

import datetime
import ipaddress
import os
import ssl
import subprocess
import sys

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dataecho.errors import DataError
from dataecho.sources.options import RemoteOptions
from dataecho.sources.remote import Remote
from tests.sources.http_server import HttpServer

DATA = np.random.default_rng(0).bytes(100_001)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A file with a certificate of 127.0.0.1 that signs itself, and one with its key."""
    folder = tmp_path_factory.mktemp("certificate")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.timezone.utc)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(built.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)
    return folder


@pytest.fixture
def server(tmp_path, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "certificate.pem", certificate / "key.pem")
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a.bin").write_bytes(DATA)
    server = HttpServer(tmp_path / "served", context=context)
    yield server
    server.close()


def actions(reader):
    return reader.read, reader.stat, lambda url: list(reader.stream(url)), lambda url: reader.read_range(url, 0, 3)


def test_a_certificate_that_is_not_trusted_is_an_error_at_once_that_says_how_to_trust_it(server):
    assert server.url.startswith("https://")
    for action in actions(Remote(RemoteOptions(first_delay=60))):
        with pytest.raises(DataError, match=r"https://127\.0\.0\.1.*CERTIFICATE_VERIFY_FAILED.*SSL_CERT_FILE="):
            action(f"{server.url}/a.bin")
    assert not server.requests


def test_the_certificate_that_is_named_is_trusted(server, certificate):
    """In a process of its own: the variable is read when it starts."""
    program = (
        "import sys; from dataecho.sources.remote import Remote; url = sys.argv[1]; reader = Remote(); "
        "assert reader.list(url.replace('a.bin', '*.bin')) == [url] and reader.stat(url).size == 100_001; "
        "sys.stdout.buffer.write(reader.read(url) + b''.join(reader.stream(url)) + reader.read_range(url, 7, 5))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, f"{server.url}/a.bin"],
        env={**os.environ, "SSL_CERT_FILE": str(certificate / "certificate.pem")},
        capture_output=True,
        timeout=120,
    )
    assert done.stdout == 2 * DATA + DATA[7:12], done.stderr.decode()
