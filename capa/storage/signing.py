"""The signature over ``manifest.sha256``, made and checked by OpenSSH's own ``ssh-keygen``.

The box has OpenSSH anyway, and whoever doubts a bundle can check it with OpenSSH alone
(ssh-keygen(1), "-Y sign"). Only Ed25519 keys: one kind, no parameters to get wrong.
"""

import os
import re
import shutil
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from capa.errors import BundleError
from capa.storage.entries import SignerEntry

__all__ = ["NAMESPACE", "SIGNATURE_FILE", "Key", "SigningError", "signature_problem"]

NAMESPACE = "capa-bundle"
SIGNATURE_FILE = "manifest.sha256.sig"
_TIMEOUT_S = 20.0
_KIND = "ssh-ed25519"
_PUBLIC_KEY = rf"{_KIND} [A-Za-z0-9+/]+=*"


class SigningError(BundleError):
    """A key that does not sign, or no ``ssh-keygen``."""


@dataclass(frozen=True, slots=True)
class Key:
    """A private key of the box that signs."""

    path: Path
    public_key: str

    @classmethod
    def load(cls, path: Path) -> "Key":
        """Read a key file.

        Raises:
            SigningError: it is missing, protected by a passphrase, or no Ed25519 key.
        """
        if not path.exists():
            raise SigningError(
                f"{path}: there is no such key; make one: ssh-keygen -t ed25519 -N '' -f {path}"
            )
        kind, _, rest = _ssh_keygen("-y", "-P", "", "-f", str(path)).decode().partition(" ")
        if kind != _KIND:
            raise SigningError(f"{path}: is a key of kind {kind}; it must be {_KIND}")
        return cls(path, f"{kind} {rest.split()[0]}")

    @property
    def signer(self) -> SignerEntry:
        """What the manifest says of it."""
        return SignerEntry(public_key=self.public_key, namespace=NAMESPACE)

    def sign(self, data: bytes) -> bytes:
        """Return the text of a signature.

        Raises:
            SigningError: as ``ssh-keygen`` says.
        """
        return _ssh_keygen("-q", "-Y", "sign", "-f", str(self.path), "-n", NAMESPACE, data=data)


def signature_problem(
    data: bytes, signature: Path, signer: SignerEntry, *, allowed_signers: Path | None = None
) -> str | None:
    """Return what is wrong with a signature over ``data``; None: it is good.

    It must be the key's that the manifest names, and, where there is a file of trusted keys,
    ``ssh-keygen`` must accept it by that file, with all that its lines may say: the manifest is
    the word of whoever wrote it.

    Raises:
        OSError: the file of trusted keys can't be read.
        SigningError: there is no ``ssh-keygen`` to ask.
    """
    if signer.namespace != NAMESPACE or not re.fullmatch(_PUBLIC_KEY, signer.public_key):
        return f"is said to be by no key of a box: {signer.public_key!r} for {signer.namespace!r}"
    if allowed_signers is not None:
        with allowed_signers.open("rb"):  # or it says why it can't be read
            pass
        if not _is_trusted(data, signature, allowed_signers):
            return f"is not by a key that {allowed_signers} names: {signer.public_key}"
    with tempfile.TemporaryDirectory(prefix="capa-") as folder:
        named = Path(folder) / "allowed_signers"
        named.write_text(f"box {signer.public_key}\n")
        try:
            _verify(data, signature, named, "box")
        except _RefusedError as error:
            return f"is not by the key that the manifest names: {error}"
    return None


def _is_trusted(data: bytes, signature: Path, allowed_signers: Path) -> bool:
    words = ("-Y", "find-principals", "-f", str(allowed_signers), "-s", str(signature))
    try:
        principals = _ssh_keygen(*words).decode(errors="surrogateescape").splitlines()
    except _RefusedError:
        return False
    for principal in principals:
        with suppress(_RefusedError):
            _verify(data, signature, allowed_signers, principal)
            return True
    return False


def _verify(data: bytes, signature: Path, allowed_signers: Path, principal: str) -> None:
    words = ("-Y", "verify", "-f", str(allowed_signers), "-I", principal, "-n", NAMESPACE)
    _ssh_keygen(*words, "-s", str(signature), data=data)


class _RefusedError(SigningError):
    """What ``ssh-keygen`` said, having ended with an error."""


def _ssh_keygen(*words: str, data: bytes = b"") -> bytes:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise SigningError("ssh-keygen is not installed; it comes with openssh-client")
    # No terminal and no helper program may be asked for a passphrase: nobody sits in front.
    environment = {**os.environ, "SSH_ASKPASS": "/bin/false", "SSH_ASKPASS_REQUIRE": "force"}
    try:
        done = subprocess.run(  # noqa: S603 - our own words and paths
            [program, *words],
            input=data,
            capture_output=True,
            check=False,
            timeout=_TIMEOUT_S,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SigningError(f"ssh-keygen: {error}") from error
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        raise _RefusedError(said[-1] if said else f"ssh-keygen ended with {done.returncode}")
    return done.stdout
