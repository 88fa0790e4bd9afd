"""Starts the built binaries as an operator would, for the client tests to talk to.

The tests see what a customer sees: a binary, a sealed bundle, a trust root, a configuration.  Bundles are sealed here with
the vendor's tool, keys and certificates made fresh for each run.
"""

import datetime
import ipaddress
import json
import os
import pathlib
import re
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ROOT = pathlib.Path(__file__).resolve().parents[2]
AMPOULE = pathlib.Path(os.environ["CONFORMANCE_BINARY"])
SEAL = AMPOULE.with_name("ampoule-seal")
START_SECONDS = 60
# An unknown AMPOULE_ variable is an error of configuration, so what the tests were given must not reach the server.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("AMPOULE_")}


class Workshop:
    """A folder with a vendor's key, a trust root, a sealed copy of the demo's model, and one API key.

    What else is given goes to `ampoule-seal seal`.
    """

    def __init__(self, *sealing):
        self._sealing = sealing
        self._folder = tempfile.TemporaryDirectory(prefix="ampoule-clients-")
        self.path = pathlib.Path(self._folder.name)
        password = self.path / "password"
        password.write_text("correct horse battery staple\n")
        vendor = self.path / "vendor"
        run(SEAL, "keygen", vendor, "--password-file", password)
        self.root = self.path / "root.json"
        run(SEAL, "trust", "init", "--root-key", f"{vendor}.pub", "--release-key", f"{vendor}.pub", "--out", self.root)
        model = self.path / "model"
        run(SEAL, "export", ROOT / "bundles/demo/demo.bundle", "--dir", model)
        self.bundle = self.seal(model, "helper")
        self.keys = self.path / "keys.jsonl"
        printed = run(AMPOULE, "keys", "add", "clients", "--keys-file", self.keys)
        self.key = re.search(r"amp-[\w-]+", printed).group(0)

    def seal(self, model, name):
        """Signs a model folder with the vendor's key."""
        bundle = self.path / f"{name}.bundle"
        run(
            SEAL, "seal", "--from", model, "--name", name, "--version", "1.0.0", "--counter", "1",
            "--key", self.path / "vendor.key", "--password-file", self.path / "password", "--out", bundle, *self._sealing,
        )
        return bundle

    def close(self):
        self._folder.cleanup()


class Server:
    """`ampoule serve` on a free loopback port, as a context manager."""

    def __init__(self, workshop, *arguments, bundle=None, root=None, scheme="http", environment=None):
        self.log = tempfile.TemporaryFile(mode="w+")
        command = [
            AMPOULE, "serve", "--bundle", bundle or workshop.bundle, "--trust-root", root or workshop.root,
            "--keys-file", workshop.keys, "--listen", "127.0.0.1:0", *arguments,
        ]
        self.process = subprocess.Popen(
            [str(part) for part in command], stderr=self.log, stdout=self.log, env={**ENVIRONMENT, **(environment or {})},
        )
        self.scheme = scheme
        # The port of the metrics, where `--metrics-listen` was given.
        self.port, self.metrics_port = self._wait_for_ports()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    @property
    def base_url(self):
        return f"{self.scheme}://localhost:{self.port}/v1"

    def stop(self):
        """Asks for a drain and returns the exit code."""
        self.process.terminate()
        code = self.process.wait(timeout=START_SECONDS)
        self.log.close()
        return code

    def _wait_for_ports(self):
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            self.log.seek(0)
            text = self.log.read()
            found = re.search(r'"address":\s*"[^"]*:(\d+)"', text)
            if found:
                metrics = re.search(r'"metrics_address":\s*"[^"]*:(\d+)"', text)
                return int(found.group(1)), int(metrics.group(1)) if metrics else None
            if self.process.poll() is not None:
                self.log.close()
                raise AssertionError(f"the server ended with {self.process.returncode}:\n{text}")
            time.sleep(0.05)
        self.process.kill()
        raise AssertionError(f"the server did not say where it listens:\n{text}")


class CertificateAuthority:
    """A private authority that signs one certificate for localhost."""

    def __init__(self, folder, name):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._sign(subject, subject, key.public_key(), key, is_authority=True)
        self.certificate = folder / f"{name}.pem"
        self.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        server_key = ec.generate_private_key(ec.SECP256R1())
        server_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        server = self._sign(server_name, subject, server_key.public_key(), key, is_authority=False)
        self.server_certificate = folder / f"{name}-server.pem"
        self.server_certificate.write_bytes(server.public_bytes(serialization.Encoding.PEM))
        self.server_key = folder / f"{name}-server.key"
        self.server_key.write_bytes(server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption(),
        ))
        self.server_key.chmod(0o600)

    @staticmethod
    def _sign(subject, issuer, public_key, signing_key, is_authority):
        now = datetime.datetime.now(datetime.timezone.utc)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        usage = x509.KeyUsage(
            digital_signature=not is_authority, key_cert_sign=is_authority, crl_sign=is_authority, content_commitment=False,
            key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
        )
        identifier = x509.SubjectKeyIdentifier.from_public_key(public_key)
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key())
        builder = (
            x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5)).not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(identifier, critical=False).add_extension(authority, critical=False)
        )
        if not is_authority:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(signing_key, hashes.SHA256())


def run(*command):
    """Runs a command to its end and returns its standard output; a failure shows both outputs."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise AssertionError(f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def get_json(url, key):
    """A plain GET with the standard library, for what the client package does not cover."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
