"""Purify and classify many images at once: ``python httpx_client.py URL IMAGE...``; needs httpx2 (or httpx).

Writes ``NAME.purified.png`` beside each image. No more than ``in_flight`` requests are under way at a time, so that a
folder of a million images needs little memory here and waits in no queue there.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2 as httpx

BUSY = (429, 503)  # nothing is wrong with the request: Retry-After says when to come back


class ArnError(Exception):
    """An answer that is no result: its ``status``, its ``code`` and the service's sentence."""

    def __init__(self, status: int, code: str, sentence: str) -> None:
        super().__init__(f"{status} {code}: {sentence}")
        self.status, self.code = status, code


class ArnClient:
    """A client of one service, for ``async with``.

    Args:
        base: the service, ``http://host:port``.
        key: of ``ARN_API_KEY``.
        sha256: of the checkpoint that must answer; empty accepts any.
        in_flight: requests under way at a time.
        attempts: how often a busy service is asked.
    """

    def __init__(self, base: str, key: str = "", sha256: str = "", in_flight: int = 8, attempts: int = 6) -> None:
        headers = {"Content-Type": "application/octet-stream"} | ({"X-API-Key": key} if key else {})
        self.http = httpx.AsyncClient(base_url=base, headers=headers, timeout=60)
        self.sha256, self.attempts = sha256, attempts
        self.places = asyncio.Semaphore(in_flight)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.http.aclose()

    async def purify(self, image: bytes, **parameters: str) -> httpx.Response:
        """The answer whose ``content`` is the purified image; ``parameters`` such as ``model`` or ``resize``."""
        return await self._ask("/purify", image, parameters)

    async def classify(self, image: bytes, **parameters: str) -> dict[str, Any]:
        """The embedded classifier's answer for the purified image."""
        answer: dict[str, Any] = (await self._ask("/classify", image, parameters)).json()
        return answer

    async def _ask(self, path: str, image: bytes, parameters: dict[str, str]) -> httpx.Response:
        """The checked answer. Asks again while the service is busy, and holds its place meanwhile.

        Raises:
            ArnError: the service refuses, is still busy after so many attempts, or did not purify.
            httpx.TransportError: it cannot be reached.
        """
        async with self.places:
            for attempt in range(1, self.attempts + 1):
                answer = await self.http.post(path, content=image, params=parameters)
                if answer.status_code not in BUSY or attempt == self.attempts:
                    break
                # A little longer at random, so that clients do not come back all at once.
                await asyncio.sleep(float(answer.headers.get("Retry-After", 1)) + random.random())
        if answer.status_code != 200:
            raise refusal(answer)
        if answer.headers.get("X-ARN-Purified") != "true":
            raise ArnError(200, "not_purified", f"X-ARN-Purified is {answer.headers.get('X-ARN-Purified')}")
        if self.sha256 and answer.headers["X-ARN-Model-SHA256"] != self.sha256:
            raise ArnError(200, "other_checkpoint", f"X-ARN-Model-SHA256 is {answer.headers['X-ARN-Model-SHA256']}")
        return answer


def refusal(answer: httpx.Response) -> ArnError:
    """What a refusal says: ``{"error": sentence, "code": slug}``, unless a proxy answered."""
    try:
        said = answer.json()
        return ArnError(answer.status_code, said["code"], said["error"])
    except (ValueError, KeyError, TypeError):
        return ArnError(answer.status_code, "unknown", answer.text[:200])


async def purified(client: ArnClient, paths: Iterable[Path], in_flight: int = 8) -> AsyncIterator[tuple[Path, str]]:
    """Each path with what became of it, as they are done; never more than twice ``in_flight`` images in memory."""
    waiting: set[asyncio.Task[tuple[Path, str]]] = set()
    for path in paths:
        waiting.add(asyncio.create_task(_one(client, path)))
        if len(waiting) >= 2 * in_flight:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield task.result()
    for task in asyncio.as_completed(waiting):
        yield await task


async def _one(client: ArnClient, path: Path) -> tuple[Path, str]:
    image = path.read_bytes()
    try:
        answer = await client.purify(image)
        path.with_suffix(".purified.png").write_bytes(answer.content)
        label = (await client.classify(image))["label"]
    except ArnError as error:  # the others may be right
        return path, str(error)
    return path, f"label {label}, changed by at most {255 * float(answer.headers['X-ARN-Residual-Linf']):.0f} of 255"


async def main() -> int:
    """Each image of the command line; status 1 where one was refused."""
    base, *names = sys.argv[1:]
    failed = False
    async with ArnClient(base, os.environ.get("ARN_CLIENT_KEY", "")) as client:
        async for path, said in purified(client, map(Path, names)):
            print(f"{path}: {said}")
            failed |= not said.startswith("label")
    return int(failed)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
