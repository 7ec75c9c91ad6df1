"""`holdfast init`: a configuration that runs at once, with fresh tokens only their owner can read.

Overwrites nothing without `--force`; even then an older token stays accepted as a further line of its file, because
a webhook URL that a provider already knows must not die. Starts nothing and talks to nobody.
"""

import base64
import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path

import click

from holdfast.cli.context import state_of
from receiver.errors import HoldfastError, sentence

SECRETS_FOLDER = "secrets"
SOURCE = "moderation"
OLD_TOKENS_KEPT = 4

CONFIG = """\
# Written by `holdfast init`. `holdfast check` says what it thinks of it; config.example.toml shows every key.

[store]
url = "sqlite:///holdfast.db"

[intake]                              # public: providers post here
listen = "127.0.0.1:8080"
# public_url = "https://hooks.example.com"    # how the world reaches it

[api]                                 # private: the application and the operator
listen = "127.0.0.1:8081"
token = "file:secrets/api_token"

# [app]                               # push messages to the application; without it the application pulls
# url = "http://127.0.0.1:3000/holdfast"
# secret = "file:secrets/app_secret"

[sources.moderation]                  # takes POST /in/moderation/PATH_TOKEN
provider = "omnifence"
path_token = "file:secrets/moderation_path_token"
# api_key = "env:OMNIFENCE_API_KEY"   # with it, lost webhooks are asked for
"""


def _token() -> str:
    return secrets.token_urlsafe(32)


def _signing_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


TOKENS: dict[str, Callable[[], str]] = {
    "api_token": _token,
    "app_secret": _signing_secret,
    f"{SOURCE}_path_token": _token,
}
"""File name -> what makes a fresh value for it."""


def write_config(path: Path, *, force: bool = False) -> list[Path]:
    """Write the configuration and its secrets; answers the files written. All of them or, on an error, none new.

    Raises HoldfastError when something stands there already and `force` is not given, or nothing can be written.
    """
    folder = path.parent / SECRETS_FOLDER
    files = [folder / name for name in TOKENS]
    standing = [each for each in (path, *files) if os.path.lexists(each)]
    if standing and not force:
        todo = "choose another --path, or use --force: it keeps old tokens valid beside the new ones"
        raise HoldfastError(sentence("writing a configuration", f"{standing[0]} is there already", todo))
    written: list[Path] = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        _write(folder / ".gitignore", "*\n", 0o600)
        for file in files:
            fresh = [TOKENS[file.name](), *_older(file)]
            _write(file, "".join(f"{line}\n" for line in fresh), 0o600)
            written.append(file)
        _write(path, CONFIG, 0o644)
    except OSError as error:
        for file in written:
            if file not in standing:
                file.unlink(missing_ok=True)
        met = f"{error.filename or path} cannot be written ({(error.strerror or 'no reason given').lower()})"
        raise HoldfastError(sentence("writing a configuration", met, "choose another --path")) from None
    return [path, *written]


def _older(file: Path) -> list[str]:
    """The tokens a file holds so far, newest first."""
    if not file.exists():
        return []
    return [line for line in file.read_text("utf-8", "replace").splitlines() if line][:OLD_TOKENS_KEPT]


def _write(path: Path, text: str, mode: int) -> None:
    """Put a file in place whole, never readable by more than `mode` allows, not even for a moment."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp gives mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(handle)
            os.fchmod(handle, mode & ~_umask() | 0o600)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def next_steps(path: Path) -> str:
    """What to do with a configuration just written. Names files, never a token."""
    folder = path.parent / SECRETS_FOLDER
    config = "" if path == Path("holdfast.toml") else f" --config {path}"
    return f"""\
Wrote {path} and, for their owner alone, the tokens in {folder}/.

Start it:           holdfast run{config}
Post a webhook to:  http://127.0.0.1:8080/in/{SOURCE}/$(head -n1 {folder}/{SOURCE}_path_token)
Register a job:     holdfast jobs add {SOURCE} JOB_ID --modality image{config}
Look:               holdfast status{config}
Before going live:  set intake.public_url and the source's api_key, then holdfast check{config}"""


@click.command("init")
@click.option(
    "--path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to write the configuration (default: --config, else holdfast.toml); secrets/ is made beside it.",
)
@click.option("--force", is_flag=True, help="Overwrite; tokens that stand there stay valid beside the new ones.")
@click.pass_context
def init(ctx: click.Context, path: Path | None, force: bool) -> None:
    """Write a configuration that runs at once."""
    path = path or state_of(ctx).config or Path("holdfast.toml")
    write_config(path, force=force)
    click.echo(next_steps(path))
