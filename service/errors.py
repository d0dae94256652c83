"""Every error that the service answers, in one hierarchy, with its status.

ServiceError
├── BadRequest
│   ├── BrokenImage          400  not decodable, or truncated
│   ├── BrokenBody           400  a malformed multipart or .npy body
│   ├── Unauthorized         401  no key in X-API-Key that ARN_API_KEY has
│   ├── WrongAdminToken      401  X-Admin-Token is not ARN_ADMIN_TOKEN
│   ├── UnknownModel         404  ?model= names none that is loaded
│   ├── NotAcceptable        406  nothing in Accept can be produced
│   ├── BodyTimeout          408  the body took longer than ARN_BODY_SECONDS; the connection is closed
│   ├── SwapUnderWay         409  one model is being swapped already
│   ├── BodyTooLarge         413  more bytes than ARN_MAX_BODY_BYTES, or too many once it is parsed
│   ├── HeadTooLarge         431  a request's line and headers, or trailers, without end; the connection is closed
│   ├── TooManyImages        413  more images than the whole queue holds
│   ├── UnsupportedMedia     415  neither an image nor a tensor that is read
│   │   └── UnsupportedCoding     a content coding other than gzip and deflate
│   ├── WrongSize            422  no loaded model takes this size
│   ├── NoClassifier         422  no embedded classifier of the purifier's data set
│   ├── NoImage              422  a request to the model server without an image that a purifier takes
│   ├── TooManyPixels        422  more than ARN_MAX_PIXELS in the header; or decoded, than ARN_BODIES_BYTES
│   ├── DecodeTimeout        422  not decoded within ARN_DECODE_SECONDS
│   ├── SwapRefused          422  a checkpoint that may not, or cannot, take a loaded model's place
│   ├── BadParameter         422  a query parameter or an array out of range
│   └── UnknownTransferCoding 501 a transfer coding other than chunked; the connection is closed
├── Busy
│   ├── QueueFull            429  with Retry-After
│   ├── ClientLimit          429  this client has ARN_CLIENT_REQUESTS under way
│   ├── BodiesFull           429  ARN_BODIES_BYTES of bodies are in memory already
│   ├── TooManyConnections   503  ARN_CONNECTIONS are open already
│   ├── OutOfMemory          503  the device's memory does not hold one image, or the machine's its decoder
│   ├── Warming              503
│   └── Draining             503
├── ClientGone               499  disconnected; the answer is only for the log and the metrics
├── DeadlineExceeded         504  waited longer than ARN_DEADLINE_SECONDS
├── EngineFailure            500  the network failed on a batch; never caused by an upload alone
└── DownstreamError
    ├── DownstreamUnreachable 502
    ├── DownstreamOpen        503  failed repeatedly and is not asked for a moment; with Retry-After
    └── DownstreamTimeout     504
"""

from __future__ import annotations

from collections.abc import Iterator

_SHOWN_CHARACTERS, _LONGEST_SENTENCE = 64, 1000


def shown(value: object) -> str:
    """What a client sent, in a sentence: as Python writes it, but not all of it. Of lists and objects the type."""
    if isinstance(value, (str, bytes)):
        return repr(value[:_SHOWN_CHARACTERS]) + ("..." if len(value) > _SHOWN_CHARACTERS else "")
    if value is None or isinstance(value, (bool, int, float)):
        return _cut(repr(value), _SHOWN_CHARACTERS)
    return f"a {type(value).__name__}"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[:length] + "..."


class ServiceError(Exception):
    """An answer that is not 200. ``status`` and ``code`` belong to the class, the sentence to the instance."""

    status = 500
    code = "internal"
    refused_by = "purifier"

    def __str__(self) -> str:
        """The sentence, which goes to the client and the log: never longer than a line of text holds."""
        return _cut(super().__str__(), _LONGEST_SENTENCE)

    @property
    def headers(self) -> dict[str, str]:
        """Headers that the answer carries."""
        return {"X-ARN-Refused-By": self.refused_by}


class BadRequest(ServiceError):
    """The request cannot be served as it is; sending it again will not help."""

    status, code = 400, "bad_request"


class BrokenImage(BadRequest):
    """Bytes that are no complete image of a format that is read."""

    status, code = 400, "broken_image"


class BrokenBody(BadRequest):
    """A multipart or ``.npy`` body that contradicts itself."""

    status, code = 400, "broken_body"


class Unauthorized(BadRequest):
    """Without a key, or with a wrong one."""

    status, code = 401, "unauthorized"

    @property
    def headers(self) -> dict[str, str]:
        """Headers that the answer carries; RFC 9110 section 15.5.2 asks for the challenge."""
        return {**super().headers, "WWW-Authenticate": "X-API-Key"}


class WrongAdminToken(BadRequest):
    """Without the token of ``ARN_ADMIN_TOKEN``, or with another."""

    status, code = 401, "wrong_admin_token"

    @property
    def headers(self) -> dict[str, str]:
        """Headers that the answer carries; RFC 9110 section 15.5.2 asks for the challenge."""
        return {**super().headers, "WWW-Authenticate": "X-Admin-Token"}


class UnknownModel(BadRequest):
    """A model that is not loaded."""

    status, code = 404, "unknown_model"


class NotAcceptable(BadRequest):
    """``Accept`` leaves no format that fits the answer."""

    status, code = 406, "not_acceptable"


class BodyTimeout(BadRequest):
    """A body that was not whole in time."""

    status, code = 408, "body_timeout"

    @property
    def headers(self) -> dict[str, str]:
        """Headers that the answer carries; the rest of the body is not read."""
        return {**super().headers, "Connection": "close"}


class SwapUnderWay(BadRequest):
    """Another swap has not ended yet."""

    status, code = 409, "swap_under_way"


class BodyTooLarge(BadRequest):
    """More bytes than ``ARN_MAX_BODY_BYTES``, or a body that takes too much memory once it is parsed."""

    status, code = 413, "body_too_large"


class HeadTooLarge(BadRequest):
    """A head that does not end."""

    status, code = 431, "head_too_large"


class TooManyImages(BadRequest):
    """More images in one request than the whole queue holds."""

    status, code = 413, "too_many_images"


class UnsupportedMedia(BadRequest):
    """A content type that is not read here."""

    status, code = 415, "unsupported_media_type"


class UnsupportedCoding(UnsupportedMedia):
    """A content coding that is not read here."""

    @property
    def headers(self) -> dict[str, str]:
        """Headers that the answer carries; RFC 9110 section 12.5.3 has the codings named."""
        return {**super().headers, "Accept-Encoding": "gzip, deflate"}


class UnknownTransferCoding(BadRequest):
    """A body that is sent in another transfer coding than chunked."""

    status, code = 501, "unknown_transfer_coding"


class WrongSize(BadRequest):
    """A size that no loaded model takes."""

    status, code = 422, "wrong_size"


class NoClassifier(BadRequest):
    """The purifier has no embedded classifier of its own data set."""

    status, code = 422, "no_classifier"


class NoImage(BadRequest):
    """A request to the model server that holds no image that a loaded purifier takes."""

    status, code = 422, "no_image"


class TooManyPixels(BadRequest):
    """An image of more than ``ARN_MAX_PIXELS``, refused before decoding; or images of more bytes than all may have."""

    status, code = 422, "too_many_pixels"


class DecodeTimeout(BadRequest):
    """An image that is not decoded within ``ARN_DECODE_SECONDS``."""

    status, code = 422, "decode_timeout"


class SwapRefused(BadRequest):
    """A checkpoint that may not, or cannot, take a loaded model's place; the model stays."""

    status, code = 422, "swap_refused"


class BadParameter(BadRequest):
    """A parameter, or an array's dtype, shape or range, that is not taken."""

    status, code = 422, "bad_parameter"


class Busy(ServiceError):
    """Nothing wrong with the request; come back after ``retry_after`` seconds."""

    status, code = 503, "busy"

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Headers that the answer carries."""
        return {**super().headers, "Retry-After": str(self.retry_after)}


class QueueFull(Busy):
    """The queue holds as many images as it may."""

    status, code = 429, "queue_full"


class ClientLimit(Busy):
    """One client has as many requests under way as it may."""

    status, code = 429, "client_limit"


class BodiesFull(Busy):
    """The memory for bodies does not hold another body, or the rest of this one."""

    status, code = 429, "bodies_full"


class TooManyConnections(Busy):
    """As many connections are open as may be."""

    status, code = 503, "too_many_connections"


class OutOfMemory(Busy):
    """The device's memory does not hold an image now, not even alone, or the machine's not what decodes it."""

    status, code = 503, "out_of_memory"


class Warming(Busy):
    """The models are being loaded and warmed."""

    status, code = 503, "warming"


class Draining(Busy):
    """The service is shutting down; accepted requests are being finished."""

    status, code = 503, "draining"

    @property
    def headers(self) -> dict[str, str]:
        """Headers that the answer carries; another connection may lead to another instance."""
        return {**super().headers, "Connection": "close"}


class ClientGone(ServiceError):
    """The client disconnected before its answer was ready."""

    status, code = 499, "client_gone"


class DeadlineExceeded(ServiceError):
    """The request waited longer than its deadline."""

    status, code = 504, "deadline_exceeded"


class EngineFailure(ServiceError):
    """The network itself failed on a batch."""

    status, code = 500, "engine_failure"


class DownstreamError(ServiceError):
    """The model server did not answer; ``sent`` is False where it certainly got nothing of the request."""

    refused_by = "downstream"
    sent = True


class DownstreamUnreachable(DownstreamError):
    """No connection, or one that broke."""

    status, code = 502, "downstream_unreachable"


class DownstreamOpen(DownstreamError):
    """The model server failed repeatedly; it is asked again after ``retry_after`` seconds."""

    status, code = 503, "downstream_open"
    sent = False

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Headers that the answer carries."""
        return {**super().headers, "Retry-After": str(self.retry_after)}


class DownstreamTimeout(DownstreamError):
    """No answer in time."""

    status, code = 504, "downstream_timeout"


# Our own troubles, and images that no purifier here takes. Never a body or an image that cannot be read: a broken one
# would be the way past the purifier.
BYPASSABLE = (Busy, DeadlineExceeded, EngineFailure, NoImage, TooManyImages, WrongSize)


def kinds(of: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    """The errors that are answered: those without subclasses, and the internal one and ``BadRequest`` themselves."""
    if of in (ServiceError, BadRequest) or not of.__subclasses__():
        yield of
    for child in of.__subclasses__():
        yield from kinds(child)
