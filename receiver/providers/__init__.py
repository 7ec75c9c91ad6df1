"""Finds the providers: every module in this folder (and in folders added with `add_folder`) that has a PROVIDER.

Adding a provider is dropping one file here; nothing else is edited. Two files with one provider name are refused.
"""

import importlib
import importlib.util
import pkgutil
import sys
from pathlib import Path

from receiver.errors import ConfigError
from receiver.providers.base import Provider

_HELPERS = {"base", "managing", "signing"}
_found: dict[str, Provider] = {}
_scanned: set[str] = set()


def _take(module: object, where: str) -> None:
    provider = getattr(module, "PROVIDER", None)
    if not isinstance(provider, Provider):
        met = f"{where} has no PROVIDER that keeps the provider protocol"
        raise ConfigError(f"loading providers: {met}; see docs/write-a-provider.md")
    if _found.get(provider.name, provider) is not provider:
        raise ConfigError(f"loading providers: two files name the provider {provider.name!r} ({where}); rename one")
    _found[provider.name] = provider


def _scan() -> None:
    if "" in _scanned:
        return
    _scanned.add("")
    for info in pkgutil.iter_modules(__path__):
        if info.name not in _HELPERS and not info.ispkg and not info.name.startswith("_"):
            _take(importlib.import_module(f"{__name__}.{info.name}"), info.name)


def add_folder(folder: Path) -> None:
    """Also take the provider files of this folder (`$HOLDFAST_PROVIDERS`). Raises ConfigError on a bad file."""
    folder = folder.resolve()
    if str(folder) in _scanned:
        return
    _scanned.add(str(folder))
    for path in sorted(folder.glob("*.py")):
        if path.name.startswith("_"):
            continue
        name = f"holdfast_provider_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ConfigError(f"loading providers: {path} cannot be loaded")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # whatever is wrong in the file, it is the operator's to put right
            met = f"{path} cannot be loaded ({type(error).__name__}: {error})"
            raise ConfigError(f"loading providers: {met}; correct it or take it out of the folder") from error
        _take(module, str(path))


def provider_names() -> list[str]:
    """The names of all providers, sorted."""
    _scan()
    return sorted(_found)


def provider_named(name: str) -> Provider:
    """The provider with this name. Raises KeyError."""
    _scan()
    return _found[name]
