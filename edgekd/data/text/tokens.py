"""Texts as token numbers, held in memory."""

from __future__ import annotations

from edgekd.core.digest import sha256_of_arrays, sha256_of_json
from edgekd.core.errors import DataError
from edgekd.data.inputs import Rows


class TokenRows:
    """Texts as token numbers.

    Args:
        numbers: int64 `[N, L]`, 0 where a text is filled up.
        tokenizer_digest: Of the tokenizer that made them; a part of every fingerprint.

    Raises:
        DataError: `numbers` has another type or number of axes.
    """

    def __init__(self, numbers: Rows, tokenizer_digest: str) -> None:
        if numbers.dtype != "int64" or numbers.ndim != 2:
            raise DataError(f"token numbers must be int64 [N, L], got {numbers.dtype} {list(numbers.shape)}")
        self._numbers = numbers
        self._tokenizer_digest = tokenizer_digest

    @property
    def shape(self) -> tuple[int]:
        """`(L,)` of every text."""
        return (self._numbers.shape[1],)

    def __len__(self) -> int:
        return len(self._numbers)

    def gather(self, indices: Rows) -> Rows:
        """Return the token numbers of these rows, int64 `[n, L]`, in a fresh array."""
        return self._numbers[indices]

    def fingerprint(self, indices: Rows) -> str:
        """Return a SHA-256 over these rows and the tokenizer that made them."""
        return sha256_of_json([self._tokenizer_digest, sha256_of_arrays({"numbers": self._numbers[indices]})])
