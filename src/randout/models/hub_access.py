"""Access to the Hugging Face Hub: waits where it limits the rate of requests, and puts its errors in the user's terms."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from randout.core.console import LOG, Show
from randout.core.errors import Failure, UserError

Found = TypeVar("Found")
TIMEOUT = 10  # seconds to wait for an answer of the hub
TRIES = 6  # of a request that the hub answers with "too many requests"
LONGEST_WAIT = 300  # seconds before the next try; the hub counts requests in windows of five minutes
LOGIN = "Log in with `hf auth login`, or set HF_TOKEN"


class HubUnreachable(Failure):
    """The hub gave no answer, broke off, or failed."""


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids requests to the hub."""
    import huggingface_hub as hub

    return hub.is_offline_mode() or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def token_origin() -> str:
    """Where the token for the hub comes from, in words; empty if there is none."""
    import huggingface_hub as hub

    if any(os.environ.get(name) for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")):
        return "HF_TOKEN"
    return "`hf auth login`" if hub.get_token() else ""


@contextmanager
def progress_bars(shown: bool) -> Iterator[None]:
    """Let the hub's library show progress bars in this context only if `shown`."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if shown or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def patiently(ask: Callable[[], Found]) -> Found:
    """Call a function that asks the hub; wait and try again where it answers that there were too many requests.

    Progress bars are for terminals only. Raises what the function raises, also if the hub still refuses after `TRIES` tries
    or wants a longer wait than `LONGEST_WAIT`.
    """
    for tried in range(1, TRIES + 1):
        try:
            with progress_bars(Show().terminal):
                return ask()
        except Exception as error:
            answer = _answer_of(_cause_of(error))
            wait = None if answer is None else _wait_of(answer, tried)
            if wait is None or wait > LONGEST_WAIT or tried == TRIES:
                raise
        LOG.warning(f"the model hub limits the rate of requests; trying again in {wait} s")
        time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _wait_of(answer: Any, tried: int) -> int | None:
    """Return the seconds to wait before the next try, as an answer says, else longer each time; None: do not try again."""
    if answer.status_code != 429:
        return None
    found = re.search(r";\s*t\s*=\s*(\d+)", answer.headers.get("ratelimit", ""))
    said = answer.headers.get("retry-after", "") or (found[1] if found else "")
    return int(said) if said.isdigit() else 2**tried


def _cause_of(error: BaseException) -> BaseException:
    """Return the error behind those with which the hub's library reports that a file is not cached, or an upload failed."""
    import huggingface_hub.errors as hub

    while isinstance(error, hub.LocalEntryNotFoundError | RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _answer_of(error: BaseException) -> Any:
    """Return the answer of the hub that an error is about; None if there was none."""
    return getattr(error, "response", None)


def explained(error: Exception, name: str, revision: str = "", near: str = "", suggestion: str = "") -> Exception:
    """Return a UserError or Failure that says what the hub's error means; an error of the local disk is returned unchanged.

    name: the model, as the user named it. near: suggestion for a misspelt name. suggestion: what to do without the hub.
    """
    import huggingface_hub.errors as hub

    cause = _cause_of(error)
    if isinstance(cause, UserError | Failure) or (isinstance(cause, OSError) and cause.errno):
        return error if not isinstance(cause, Exception) else cause
    answer = _answer_of(cause)
    status, origin = getattr(answer, "status_code", None), token_origin()
    if isinstance(cause, hub.GatedRepoError):
        return UserError(
            f"{name}: access to this model is restricted; accept its terms on its page on the hub"
            + (f", with the account of the token from {origin}" if origin else f". {LOGIN}")
        )
    if isinstance(cause, hub.RepositoryNotFoundError):
        private = (
            f"the token from {origin} may read it" if origin else "there is a token for it: `hf auth login`, HF_TOKEN"
        )
        return UserError(
            f"{name}: no such folder, and no such model on the hub, or it is private; check that {private}.{near}"
        )
    if isinstance(cause, hub.RevisionNotFoundError):
        return UserError(f"{name}: the hub has this model, but not its revision {revision!r}")
    if status == 401:
        return UserError(
            f"{name}: the hub refuses the token from {origin or 'nowhere'}; it is wrong or expired. {LOGIN}"
        )
    if status in (400, 403):
        said = " ".join((answer.headers.get("x-error-message") or str(cause)).split())[:300]
        return UserError(
            f"{name}: the hub refuses this ({said}). The token from {origin or 'nowhere'} may lack the right"
        )
    if isinstance(cause, ValueError) and "metadata" in str(cause):
        return UserError(f"{name}: the hub refuses the head of the model card: {' '.join(str(cause).split())[:300]}")
    if status in (409, 412):
        return Failure(f"{name}: someone else changed this repository at the same time. Run the command again")
    if status == 429:
        return Failure(f"{name}: the model hub limits the rate of requests. Run the command again in some minutes")
    if isinstance(cause, hub.OfflineModeIsEnabled):
        return UserError(f"{name}: HF_HUB_OFFLINE is set, so the model hub cannot be asked")
    what = f"{type(cause).__name__}{f' {status}' if status else ''}"
    if not suggestion:
        return HubUnreachable(f"{name}: the model hub cannot be reached ({what}).{near}")
    return HubUnreachable(
        f"{name}: not found locally, and the model hub cannot be reached ({what}).{near} {suggestion}"
    )
