"""Merges captions through an OpenAI-compatible endpoint, a hosted one or a server of one's own."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from datamodules.errors import DataError
from datamodules.remote.secrets import redact
from datamodules.synthesis.extra import one_line
from datamodules.synthesis.merge_rules import merge_captions
from datamodules.synthesis.prompts import clean_answer, numbered

log = logging.getLogger(__name__)

OPENAI = "https://api.openai.com/v1"
_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504, 529)
_LONGEST_PAUSE_S = 60.0
_TIMEOUT_S = 120.0
_AT_ONCE = 8
_jitter = random.Random()  # of its own: the global one belongs to the user's seed


class EndpointWriter:
    """Asks ``POST URL/chat/completions`` at temperature 0.

    The key is read from the environment for each request and stands in no file, log or error.

    Args:
        url: base URL; None is OpenAI's own.
        model: name that the endpoint knows.
        instruction: what the model is told before the captions.
        key_env: environment variable of the key; where it is not set, requests carry none.
        tries: of each request, with pauses that double.
        backoff_s: the first pause.

    Raises:
        DataError: for a URL that is none, or holds a password.
    """

    def __init__(
        self,
        url: str | None,
        model: str,
        instruction: str,
        *,
        key_env: str = "OPENAI_API_KEY",
        tries: int = 6,
        backoff_s: float = 1.0,
    ) -> None:
        self.url = (url or OPENAI).rstrip("/")
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise DataError(f"--prompt-url {redact(self.url)}: give the endpoint's base, as in {OPENAI}")
        if parts.username or parts.password or parts.query:
            raise DataError(f"--prompt-url: holds a secret or a query; the key belongs into the variable {key_env}")
        self.model, self.instruction, self.key_env = model, instruction, key_env
        self.tries, self.backoff_s = tries, backoff_s

    def __call__(self, captions: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
        """See :class:`datamodules.synthesis.prompts.PromptWriter`.

        Raises:
            DataError: if an answer cannot be had; what was answered before is kept by the caller.
        """
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return [(prompt,) for prompt in pool.map(self._one, captions)]

    def close(self) -> None:
        """Nothing to give back."""

    def _one(self, captions: Sequence[str]) -> str:
        body = {
            "model": self.model,
            "temperature": 0,
            "messages": [{"role": "user", "content": f"{self.instruction}\n\n{numbered(captions)}"}],
        }
        return clean_answer(self._ask(body)) or merge_captions(captions)

    def _ask(self, body: dict[str, Any]) -> str:
        import requests

        address = f"{self.url}/chat/completions"
        for attempt in range(self.tries):
            key = os.environ.get(self.key_env)
            wait: float | None = None
            try:
                answer = requests.post(
                    address,
                    json=body,
                    headers={"Authorization": f"Bearer {key}"} if key else {},
                    timeout=_TIMEOUT_S,
                    allow_redirects=False,  # the key is for this host
                )
            except requests.RequestException as error:
                said = self._safe(type(error).__name__ + ": " + one_line(error), key)
            else:
                if answer.status_code == 200:
                    try:
                        return str(answer.json()["choices"][0]["message"]["content"] or "")
                    except (ValueError, LookupError, TypeError):
                        raise DataError(f"{address}: its answer is not that of a chat completion") from None
                said = f"status {answer.status_code}" + self._safe(f" ({one_line(ValueError(answer.text))})", key)
                if answer.status_code in (401, 403):
                    raise DataError(f"{address}: {said}; the key is read from the environment variable {self.key_env}")
                if answer.status_code not in _AGAIN:
                    raise DataError(f"{address}: {said}")
                wait = _seconds(answer.headers.get("Retry-After"))
            if attempt + 1 < self.tries:
                pause = self.backoff_s * 2**attempt * _jitter.uniform(0.5, 1.5) if wait is None else wait
                pause = min(pause, _LONGEST_PAUSE_S)
                log.warning("%s: %s; try %d of %d in %.1f s", address, said, attempt + 2, self.tries, pause)
                time.sleep(pause)
        raise DataError(f"{address}: {said}, after {self.tries} tries; run the same command again to go on")

    @staticmethod
    def _safe(text: str, key: str | None) -> str:
        return redact(text.replace(key, "***") if key else text)


def _seconds(text: str | None) -> float | None:
    try:
        return max(float(text), 0.0) if text else None
    except ValueError:  # a date, which the usual pauses will do for
        return None
