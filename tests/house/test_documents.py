"""What is written about the product agrees with the product: keys, commands, version, packages, make targets."""

import re
import subprocess
import tomllib
from collections.abc import Iterator
from importlib import metadata

import click
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import BaseModel

import receiver
from holdfast.cli import COMMANDS, cli
from receiver.providers import provider_named, provider_names
from receiver.settings import Settings
from tests.house.tree import none
from tests.support import ROOT

README = (ROOT / "README.md").read_text("utf-8")
CHANGELOG = (ROOT / "CHANGELOG.md").read_text("utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
EXAMPLE = (ROOT / "config.example.toml").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
LEFT_OUT_OF_CONSTRAINTS = {"holdfast", "pip"}
"""Ourselves; and pip, which sqlite-utils asks for: to pin it would replace the pip that is running."""


def test_every_config_key_stands_in_the_example() -> None:
    """Whoever reads config.example.toml has seen every key there is."""
    models: list[type[BaseModel]] = [Settings, *(provider_named(name).Settings for name in provider_names())]
    keys = {key for model in models for key in _keys(model, set())}
    assert {"ack_budget_s", "polls_per_min", "fail_after_s"} <= keys

    none(
        [
            f"config.example.toml: `{key}` is missing; show it with its default"
            for key in sorted(keys)
            if not _shown(key)
        ]
    )


def _keys(model: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[str]:
    """The keys a model reads, those of the models inside it too."""
    if model in seen:
        return
    seen.add(model)
    for name, field in model.model_fields.items():
        if field.init is False or field.exclude:
            continue
        yield field.alias or name
        for inner in _models(field.annotation):
            yield from _keys(inner, seen)


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _models(part)


def _shown(key: str) -> bool:
    return (
        re.search(
            rf"(?m)^(?:# )?(?:\[+)?(?:\w+\.)*{re.escape(key)}\b(?:\.\w+)* ?(?:=|\])|[{{,] {re.escape(key)} =", EXAMPLE
        )
        is not None
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_stands_in_the_readme(command: str) -> None:
    """A command nobody can read about does not exist."""
    assert re.search(rf"\bholdfast {re.escape(command)}\b", README), f"README.md does not mention `holdfast {command}`"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_there_is_can_be_called(command: str) -> None:
    """What --help lists has a file of its own behind it."""
    context = click.Context(cli)

    found = cli.get_command(context, command)

    assert found is not None
    assert found.name == command
    assert found.help


def test_every_make_target_is_told_of() -> None:
    """`make help` lists what there is, and CONTRIBUTING.md says what each is for."""
    (phony,) = re.findall(r"(?m)^\.PHONY: (.*)$", MAKEFILE)
    helped = set(re.findall(r"(?m)^([a-z-]+):.*## ", MAKEFILE))

    assert helped == set(phony.split())
    assert [target for target in phony.split() if f"`make {target}`" not in CONTRIBUTING] == []
    assert [target for target in ("demo", "run", "test") if f"make {target}" not in README] == []


def test_the_changelog_knows_this_version() -> None:
    """The newest entry with a number is the version the package says it has."""
    headings = re.findall(r"(?m)^## \[([^\]]+)\]", CHANGELOG)
    numbered = [each for each in headings if each != "Unreleased"]

    assert numbered[:1] == [receiver.__version__]
    assert headings == [*(["Unreleased"] if "Unreleased" in headings else []), *numbered]


def test_versions_in_the_documents_agree() -> None:
    """The package says the same version as its metadata; a stale install is told to be made again."""
    assert metadata.version("holdfast") == receiver.__version__, "install again: touch pyproject.toml && make test"


def test_every_package_that_is_installed_is_pinned() -> None:
    """constraints.txt names all that a fresh install would bring, transitively, and nothing that contradicts us."""
    pinned = _pins()
    needed = _needed("holdfast", {"", "dev"}) - LEFT_OUT_OF_CONSTRAINTS

    none([f"constraints.txt: {name} is not pinned" for name in sorted(needed - set(pinned))])
    none(
        [
            f"constraints.txt: {name}=={pinned[name]} is outside {requirement}"
            for requirement in _declared()
            if not requirement.specifier.contains(pinned[name := canonicalize_name(requirement.name)])
        ]
    )


def _pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pairs = [line.split(";")[0].strip().split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def _declared() -> list[Requirement]:
    return [Requirement(each) for each in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"])]


def _needed(name: str, extras: set[str]) -> set[str]:
    """What an installed distribution needs here, through all its needs."""
    found: set[str] = set()
    waiting = [(canonicalize_name(name), frozenset(extras))]
    done = set()
    while waiting:
        name, wanted = each = waiting.pop()
        if each in done:
            continue
        done.add(each)
        for requirement in map(Requirement, metadata.requires(name) or []):
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": one}) for one in wanted):
                found.add(canonicalize_name(requirement.name))
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras | {""})))
    return {each for each in found if _installed(each)}


def _installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def test_ci_runs_the_documented_commands() -> None:
    """.ci/run is make check and make test, by the same Makefile a person uses."""
    script = ROOT / ".ci" / "run"
    text = script.read_text("utf-8")

    assert script.stat().st_mode & 0o111
    assert re.findall(r"(?m)^make \S+$", text) == ["make check", "make test"]
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
