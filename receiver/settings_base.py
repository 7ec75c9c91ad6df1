"""What every settings table is made of: strict, frozen, and able to name several wrong keys at once.

The tables themselves are in `settings.py` and `settings_source.py`; reading files is `config.py`'s.
"""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

from receiver.addresses import absolute_store_url, check_url, parse_listen
from receiver.secrets import Held, Place, Secret

LONGEST_S = 100 * 365.25 * 86400
"""A hundred years: longer makes no sense and would overflow dates."""


class Table(BaseModel):
    """One table of the configuration. Unknown keys and wrong types are errors; a bool is not a number."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )


def wrong(message: str, hint: str = "") -> PydanticCustomError:
    """One wrong value, met in a field validator: what we met, what to do."""
    return PydanticCustomError("holdfast", "{message}", {"message": message, "hint": hint})


class Faults:
    """Collects what is wrong between several keys of one table, so that all of it is told at once."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._errors: list[InitErrorDetails] = []

    def add(self, loc: str | tuple[str, ...], message: str, hint: str, *involves: str) -> None:
        """`loc` is the key to blame; `involves` are the other keys (dotted, of this table) that had a part in it:
        when one of those is wrong itself, this fault is not told."""
        where = (loc,) if isinstance(loc, str) else loc
        keys = [".".join(where), *involves]
        error = PydanticCustomError("between", "{message}", {"message": message, "hint": hint, "keys": keys})
        self._errors.append(InitErrorDetails(type=error, loc=where, input=None))

    def raise_any(self) -> None:
        """Raises ValidationError when anything was added."""
        if self._errors:
            raise ValidationError.from_exception_data(self._title, self._errors, hide_input=True)


def line_errors(error: ValidationError) -> list[InitErrorDetails]:
    """The errors inside a ValidationError in a form that can be raised again, together with others."""
    details = []
    for item in error.errors(include_url=False, include_input=True):
        context = item.get("ctx", {})
        custom = "message" in context and "hint" in context
        kind = PydanticCustomError(item["type"], "{message}", context) if custom else item["type"]
        detail = InitErrorDetails(type=kind, loc=item["loc"], input=item["input"])
        if not custom:
            detail["ctx"] = context
        details.append(detail)
    return details


def _as_rule(check: Callable[[str, ValidationInfo], str], hint: str) -> AfterValidator:
    def rule(value: str, info: ValidationInfo) -> str:
        try:
            return check(value, info)
        except ValueError as error:
            raise wrong(str(error), hint) from None

    return AfterValidator(rule)


def _url(query: bool) -> Callable[[str, ValidationInfo], str]:
    def check(value: str, info: ValidationInfo) -> str:
        check_url(value, query=query)
        return value if query else value.rstrip("/")

    return check


def _folder(info: ValidationInfo) -> Any:
    return info.context.folder if isinstance(info.context, Place) else None


def _listen(value: str, info: ValidationInfo) -> str:
    return str(parse_listen(value, _folder(info)))


def _store_url(value: str, info: ValidationInfo) -> str:
    return absolute_store_url(value, _folder(info))


def _path(value: str, info: ValidationInfo) -> str:
    if not value or not value.isprintable():
        raise ValueError("names no folder")
    folder = _folder(info)
    return value if folder is None else str(folder / value)


Seconds = Annotated[float, Field(gt=0, le=LONGEST_S)]
SecondsOrZero = Annotated[float, Field(ge=0, le=LONGEST_S)]
Days = Annotated[float, Field(gt=0, le=36525)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
CountOrZero = Annotated[int, Field(ge=0, le=1_000_000_000)]
Bytes = Annotated[int, Field(ge=1, le=1 << 40)]
BytesOrZero = Annotated[int, Field(ge=0, le=1 << 40)]
PerMinute = Annotated[float, Field(gt=0, ge=0.0001, le=60000)]
"""At the least one question a week; less is `pause`."""
Share = Annotated[float, Field(gt=0, le=1)]

BaseUrl = Annotated[str, _as_rule(_url(query=False), "as in https://api.example.com/v1")]
"""Paths are put behind it; kept without a closing slash."""
PushUrl = Annotated[str, _as_rule(_url(query=True), "as in http://127.0.0.1:3000/holdfast")]
ListenText = Annotated[str, _as_rule(_listen, "as in 127.0.0.1:8080, unix:/run/holdfast/in.sock or fd:3")]
StoreUrl = Annotated[str, _as_rule(_store_url, "as in sqlite:///holdfast.db")]
FolderText = Annotated[str, _as_rule(_path, "as in /var/lib/holdfast/spill")]

DoorSecret = Annotated[Secret, Held("intake", many=True)]
"""Compared at the public door; `holdfast receive` holds it."""
PathToken = Annotated[Secret, Held("intake", shape="segment", many=True)]
KeySecret = Annotated[Secret, Held("all", shape="header")]
"""Sent to a provider; never in the process that listens publicly."""
TokenSecret = Annotated[Secret, Held("api", shape="header", many=True)]
SigningSecret = Annotated[Secret, Held("all", many=True)]
