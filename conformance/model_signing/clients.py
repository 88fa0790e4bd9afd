"""The two clients behind one interface: each signs and verifies, and says yes or no."""

import os
import pathlib
import subprocess

import model_signing
from click.testing import CliRunner
from model_signing import _cli

from trees import SHARD_SIZE


class Ours:
    """The binary, as a pipeline would call it."""

    def __init__(self, binary):
        self.binary = binary

    def sign(self, tree, signature, identity):
        options = ["--key", identity.private, "--method", tree.method]
        if tree.method == "certificate":
            options += ["--certificate-chain", identity.chain]
        if tree.shards:
            options += ["--serialization", "shards", "--shard-size", str(SHARD_SIZE)]
        for name in tree.ignored:
            options += ["--ignore-paths", tree.folder / name]
        return self._run(["sign", tree.folder, "--signature", signature, *options, *self._links(tree)])

    def verify(self, tree, signature, identity, ignore_unsigned=False):
        if tree.method == "key":
            options = ["--public-key", identity.public]
        else:
            options = ["--certificate-chain", identity.root]
        if ignore_unsigned:
            options.append("--ignore-unsigned-files")
        return self._run(["verify", tree.folder, "--signature", signature, *options, *self._links(tree)])

    @staticmethod
    def _links(tree):
        return ["--allow-symlinks"] if tree.allow_symlinks else []

    def _run(self, arguments):
        done = subprocess.run([self.binary, "oms", *map(str, arguments)], capture_output=True, text=True, timeout=60)
        # Anything but these is a crash, and no verdict.
        assert done.returncode in (0, 1, 10, 11), (arguments, done.returncode, done.stderr)
        return done.returncode == 0, done.stderr.strip()


class Theirs:
    """The reference client: its command line for whole files, and its library for shards, which the former lacks."""

    def sign(self, tree, signature, identity):
        if tree.shards:
            config = model_signing.signing.Config().set_hashing_config(self._shards(tree, signature))
            if tree.method == "key":
                config.use_elliptic_key_signer(private_key=identity.private)
            else:
                config.use_certificate_signer(
                    private_key=identity.private,
                    signing_certificate=identity.certificate,
                    certificate_chain=[identity.above],
                )
            return self._try(lambda: config.sign(tree.folder, signature))
        options = ["--private_key", identity.private]
        if tree.method == "certificate":
            options += ["--signing_certificate", identity.certificate, "--certificate_chain", identity.above]
        for name in tree.ignored:
            options += ["--ignore-paths", tree.folder / name]
        return self._run(["sign", tree.method, tree.folder, "--signature", signature, *options, *self._links(tree)])

    def verify(self, tree, signature, identity, ignore_unsigned=False):
        if tree.shards:
            config = model_signing.verifying.Config().set_ignore_unsigned_files(ignore_unsigned)
            config.set_hashing_config(self._shards(tree, signature))
            if tree.method == "key":
                config.use_elliptic_key_verifier(public_key=identity.public)
            else:
                config.use_certificate_verifier(certificate_chain=[identity.root])
            return self._try(lambda: config.verify(tree.folder, signature))
        if tree.method == "key":
            options = ["--public_key", identity.public]
        else:
            options = ["--certificate_chain", identity.root]
        if ignore_unsigned:
            options.append("--ignore_unsigned_files")
        return self._run(["verify", tree.method, tree.folder, "--signature", signature, *options, *self._links(tree)])

    @staticmethod
    def _shards(tree, signature):
        config = model_signing.hashing.Config().use_shard_serialization(shard_size=SHARD_SIZE)
        inside = os.path.relpath(signature, tree.folder)
        return config.set_ignored_paths(paths=[*tree.ignored, inside]).set_allow_symlinks(tree.allow_symlinks)

    @staticmethod
    def _links(tree):
        return ["--allow_symlinks"] if tree.allow_symlinks else []

    @staticmethod
    def _run(arguments):
        done = CliRunner().invoke(_cli.main, [str(argument) for argument in arguments])
        assert done.exit_code in (0, 1), (arguments, done.exit_code, done.output)
        return done.exit_code == 0, done.output.strip()

    @staticmethod
    def _try(work):
        try:
            work()
            return True, ""
        except Exception as error:  # The client's command line takes every exception as a refusal.
            return False, str(error)
