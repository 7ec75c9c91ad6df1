"""Whether a body is a JSON object, as fast as it can be said; what it holds is read later (`receiver.jsontext`).

Intake needs yes or no while somebody waits for the answer. A parser in Rust says yes six times faster than the one
that keeps how numbers were written, and holds up nobody else with a body of megabytes. It may say no where the other
says yes (lone surrogates, very long integers), never the reverse, so its yes is taken and its no is asked again.
"""

from pydantic_core import from_json

from receiver import jsontext


def check_object(body: bytes) -> None:
    """Raises jsontext.NotJson with the reason when the body is not a JSON object that `jsontext.parse_object` takes."""
    try:
        # In brackets, because its own limit is one level deeper than ours. One element is one JSON text.
        inside = from_json(b"[%b]" % body, allow_inf_nan=False, cache_strings=False)
        if len(inside) == 1 and isinstance(inside[0], dict):
            return
    except ValueError:
        pass
    jsontext.parse_object(body)
