"""Why something was not believed."""

from __future__ import annotations

from typing import Literal

TrustProblem = Literal[
    "expired", "rollback", "signature", "length", "digest", "wrong-device", "wrong-group", "schema", "missing", "clock"
]


class TrustError(Exception):
    """A release, or the metadata that should vouch for it, was refused; the device stays as it is.

    Attributes:
        kind: What is wrong, for programs: `"expired"` metadata, `"rollback"` to something older or a version that does
            not fit the others, too few valid `"signature"`s, a file of another `"length"` or `"digest"` than was
            signed, a release for a `"wrong-device"` or `"wrong-group"`, content that breaks its `"schema"`, a
            `"missing"` file, a `"clock"` that cannot be right.
        message: What is wrong, for people.
    """

    def __init__(self, kind: TrustProblem, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
