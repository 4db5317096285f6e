"""JSON from files that somebody else wrote."""
import json
import pathlib


def parse_json(data: bytes):
    """The value of a JSON text in UTF-8. Raises ValueError, with a reason, for anything that is not one."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json_object(path: pathlib.Path) -> dict:
    """The JSON object in a file. Raises ValueError, with a reason, for any other content, OSError where it cannot be
    read.
    """
    value = parse_json(path.read_bytes())
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def shown(value, limit: int = 60) -> str:
    """`repr` of a value, cut so that the message stays one line."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more than 4,300 digits
        text = f"a number of {value.bit_length()} bits"
    text = " ".join(text.split())
    return text if len(text) <= limit else text[:limit] + "..."
