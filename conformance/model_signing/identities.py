"""Keys and certificates of the comparison, made anew for each run."""

import datetime
import pathlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CURVES = {
    "P-256": (ec.SECP256R1, hashes.SHA256),
    "P-384": (ec.SECP384R1, hashes.SHA384),
    "P-521": (ec.SECP521R1, hashes.SHA512),
}
DAY = datetime.timedelta(days=1)


class Identity:
    """A key on `curve`, and a chain from a certificate of it by way of one authority to another."""

    def __init__(self, folder, curve, authority="ec", days=30):
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.private, self.public = folder / "key.pem", folder / "key.pub"
        self.certificate, self.above, self.chain = folder / "certificate.pem", folder / "above.pem", folder / "chain.pem"
        self.root = folder / "root.pem"
        kind, digest = CURVES[curve]
        key = ec.generate_private_key(kind())
        write_key(self.private, key)
        self.public.write_bytes(public_pem(key))
        if authority == "rsa":
            root_key = rsa.generate_private_key(65537, 2048)
        else:
            root_key = ec.generate_private_key(kind())
        middle_key = ec.generate_private_key(kind())
        root = certify("root", root_key, "root", root_key, digest(), authority_extensions(1), 3650)
        middle = certify("middle", middle_key, "root", root_key, digest(), authority_extensions(0), 365)
        # The reference client asks for one of the two; both are met in turn.
        usage = key_usage(digital_signature=True)
        if curve == "P-384":
            usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])
        leaf = certify("signer", key, "middle", middle_key, digest(), [(usage, False)], days)
        pem = [certificate.public_bytes(serialization.Encoding.PEM) for certificate in (leaf, middle, root)]
        self.certificate.write_bytes(pem[0])
        self.above.write_bytes(pem[1] + pem[2])
        self.chain.write_bytes(b"".join(pem))
        self.root.write_bytes(pem[2])


def write_key(path, key):
    path.touch(mode=0o600)
    form = serialization.PrivateFormat.PKCS8
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))


def public_pem(key):
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def key_usage(**set_bits):
    bits = dict.fromkeys(
        ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"], False)
    return x509.KeyUsage(**{**bits, **set_bits})


def authority_extensions(path_length):
    return [(x509.BasicConstraints(True, path_length), True), (key_usage(key_cert_sign=True), True)]


def certify(name, key, issuer, issuer_key, digest, extensions, days):
    """A certificate that ends in `days`, or ended so many days ago; an authority's begins long before those below it."""
    common = lambda text: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder(common(issuer), common(name), key.public_key(), x509.random_serial_number())
    begin = now - days * DAY if days > 300 else now + min(days, 0) * DAY - DAY
    builder = builder.not_valid_before(begin).not_valid_after(now + days * DAY)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, digest)
