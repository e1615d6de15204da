"""Secrets in text: found where somebody wrote one down, and taken out before anything is shown or logged."""

from __future__ import annotations

import os
import re

_HIDDEN = "***"
_SECRET_NAME = r"[\w-]*(?:secret|token|passw(?:or)?d|api[_-]?key|access[_-]?key|credential|signature)[\w-]*"

# What a shell expands is no secret: $TOKEN, ${TOKEN}, $(command), `command`.
_LITERAL = r"(?![\"']?[$`])[\"']?[^\s\"'&;|]+"
_PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?P<keep>authorization\s*[:=]\s*(?:(?:basic|bearer|token|digest)\s+)?)(?!(?:basic|bearer|token|digest)\s)"
        rf"{_LITERAL}",
        rf"(?P<keep>\b(?:bearer|basic)\s+){_LITERAL}",
        rf"(?P<keep>\b{_SECRET_NAME}\s*[=:]\s*){_LITERAL}",
        rf"(?P<keep>--{_SECRET_NAME}\s+){_LITERAL}",
        rf"(?P<keep>(?:^|\s)(?:-u\s*|--(?:proxy-)?user[\s=])[\"']?[^\s:\"']+:){_LITERAL}",
        r"(?P<keep>://)[^/\s@\"']*:(?![$`])[^/\s@\"']+@",
        rf"(?P<keep>[?&](?:{_SECRET_NAME}|sig|key|auth|x-amz-[\w-]+|x-goog-[\w-]+)=){_LITERAL}",
        r"(?P<keep>)\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
        r"(?P<keep>)\b(?:gh[opsu]_|github_pat_|hf_|glpat-|ya29\.)[\w.-]{16,}",
    )
)
_QUERY = re.compile(r"(?P<keep>\b[a-z][a-z0-9+.-]*://[^\s?#\"'<>]*)[?#][^\s\"'<>)]+", re.IGNORECASE)
_NAMES_A_SECRET = re.compile(rf"^{_SECRET_NAME}$", re.IGNORECASE)


def holds_secret(command: str) -> bool:
    """Whether a shell command holds a recognisable secret as it stands, not as a variable that the shell expands.

    >>> holds_secret("curl -H 'Authorization: Bearer abc123' https://host/{name}")
    True
    >>> holds_secret('curl -H "Authorization: Bearer $TOKEN" https://host/{name}')
    False
    """
    return any(pattern.search(command) for pattern in _PATTERNS)


def redact(text: str) -> str:
    """Take out of a message what may be a secret: passwords and queries of URLs, headers, values of the environment.

    >>> redact("GET https://me:hunter2@host/a.tar?X-Amz-Signature=0f0f failed")
    'GET https://***host/a.tar?*** failed'
    """
    for name, value in os.environ.items():
        # Shorter values are words like "true", whose removal would only garble the message.
        if len(value) >= 8 and _NAMES_A_SECRET.match(name):
            text = text.replace(value, _HIDDEN)
    text = _QUERY.sub(rf"\g<keep>?{_HIDDEN}", text)
    for pattern in _PATTERNS:
        text = pattern.sub(rf"\g<keep>{_HIDDEN}", text)
    return text
