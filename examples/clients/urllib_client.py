"""Purify and classify images with the standard library alone: ``python urllib_client.py URL IMAGE...``.

Writes ``NAME.purified.png`` beside each image. For one image after another; ``httpx_client.py`` sends several at once.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path
from typing import Any

BUSY = (429, 503)  # nothing is wrong with the request: Retry-After says when to come back


class ArnError(Exception):
    """An answer that is no result: its ``status``, its ``code`` and the service's sentence."""

    def __init__(self, status: int, code: str, sentence: str) -> None:
        super().__init__(f"{status} {code}: {sentence}")
        self.status, self.code = status, code


def ask(url: str, body: bytes, key: str = "", attempts: int = 6) -> tuple[Message, bytes]:
    """POST ``body``; the headers and the body of the answer. Asks again while the service is busy.

    Raises:
        ArnError: the service refuses, or is still busy after so many attempts.
        OSError: it cannot be reached.
    """
    headers = {"Content-Type": "application/octet-stream"} | ({"X-API-Key": key} if key else {})
    for attempt in range(1, attempts + 1):
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as answer:
                return answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            if error.code not in BUSY or attempt == attempts:
                raise refusal(error.code, error.read()) from None
            wait = float(error.headers.get("Retry-After", 1))
        time.sleep(wait + random.random())  # so that clients do not come back all at once
    raise AssertionError


def refusal(status: int, body: bytes) -> ArnError:
    """What a refusal says: ``{"error": sentence, "code": slug}``, unless a proxy answered."""
    try:
        said = json.loads(body)
        return ArnError(status, said["code"], said["error"])
    except (ValueError, KeyError, TypeError):
        return ArnError(status, "unknown", body[:200].decode(errors="replace"))


def check(headers: Message, sha256: str = "") -> None:
    """Refuse an answer that was not purified, or by another checkpoint than the one of hash ``sha256``."""
    if headers["X-ARN-Purified"] != "true":
        raise ArnError(200, "not_purified", f"X-ARN-Purified is {headers['X-ARN-Purified']}")
    if sha256 and headers["X-ARN-Model-SHA256"] != sha256:
        raise ArnError(200, "other_checkpoint", f"X-ARN-Model-SHA256 is {headers['X-ARN-Model-SHA256']}")


def purify(base: str, image: bytes, key: str = "", sha256: str = "") -> tuple[bytes, Message]:
    """The purified image as PNG, and the headers that say what was done."""
    headers, png = ask(f"{base}/purify", image, key)
    check(headers, sha256)
    return png, headers


def classify(base: str, image: bytes, key: str = "", sha256: str = "") -> dict[str, Any]:
    """The embedded classifier's answer for the purified image."""
    headers, body = ask(f"{base}/classify", image, key)
    check(headers, sha256)
    answer: dict[str, Any] = json.loads(body)
    return answer


def main() -> int:
    """Each image of the command line; a refusal ends it with status 1."""
    base, *names = sys.argv[1:]
    key = os.environ.get("ARN_CLIENT_KEY", "")
    try:
        for name in names:
            image = Path(name).read_bytes()
            png, headers = purify(base, image, key)
            Path(name).with_suffix(".purified.png").write_bytes(png)
            label = classify(base, image, key)["label"]
            print(f"{name}: label {label}, changed by at most {255 * float(headers['X-ARN-Residual-Linf']):.0f} of 255")
    except (ArnError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
