"""Watches runs from outside, prints what happens to them, and sends it to the receivers."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from rich.markup import escape

from tbx_callbacks._config.notify_spec import parse_address, parse_events
from tbx_callbacks._config.validation import SpecError
from tbx_callbacks._notify.address import AddressError
from tbx_callbacks._notify.alerts import Alerts, Target
from tbx_callbacks._notify.delivery import check
from tbx_callbacks._notify.errors import DeliveryError
from tbx_callbacks._notify.message import EVENTS, Message
from tbx_callbacks.cli.outputs import header
from tbx_callbacks.cli.run_news import RunNews
from tbx_callbacks.cli.terminal import console, print_json_line
from tbx_callbacks.rules import Acknowledgement, Rule
from tbx_callbacks.rules.diagnose import diagnose_folder
from tbx_callbacks.runs.growth import Sizes, sizes
from tbx_callbacks.runs.reader import UnreadableError

_END_SECONDS = 5.0  # longest wait for messages at the end


def targets_of(urls: Sequence[str], events: Sequence[str]) -> list[Target]:
    """Parses and checks the addresses of `--notify` and the events of `--on`.

    Raises:
        ValueError: one is wrong. The message contains no address.
    """
    names = [name.strip() for one in events for name in one.split(",")]
    try:
        wanted = parse_events(names) if names else EVENTS
    except SpecError as error:
        raise ValueError(f"--on{error}") from None
    targets = []
    for number, url in enumerate(urls, 1):
        try:
            target = Target(parse_address(url), wanted)
            check(target.address)
        except (SpecError, AddressError) as error:
            raise ValueError(f"--notify number {number} {str(error).strip()}") from None
        except DeliveryError as error:
            raise ValueError(f"--notify number {number} must be an address that can be used, but {error}") from None
        targets.append(target)
    return targets


def watch(
    logdir: str,
    wait: Callable[[], bool],
    *,
    rules: Mapping[str, Rule] | None = None,
    acknowledged: Sequence[Acknowledgement] = (),
    clock: Callable[[], float] = time.time,
) -> Iterator[Message | UnreadableError]:
    """Yields what happens to the runs in a folder, until `wait` returns True.

    Args:
        logdir: folder of a run, or of several; it may still be empty, and then an UnreadableError is yielded once.
        wait: waits until the next look.
        rules: see `diagnose_folder`.
        acknowledged: see `diagnose_folder`.
        clock: returns seconds since 1970.

    Raises:
        ImportError: TensorBoard is not installed.
    """
    runs: dict[str, RunNews] = {}
    previous: Sizes | None = None
    while True:
        now, current, is_first = clock(), sizes([logdir]), previous is None
        if current != previous:
            previous = current
            try:
                for found in diagnose_folder(logdir, rules=rules, acknowledged=acknowledged):
                    if found.name not in runs:
                        runs[found.name] = RunNews(is_old=is_first)
                    yield from runs[found.name].look(found, now)
            except UnreadableError as error:
                if is_first:
                    yield error
        for run in runs.values():
            yield from run.look_at_clock(now)
        if wait():
            return


def watch_and_send(
    events: Iterator[Message | UnreadableError], targets: Sequence[Target], *, prints_json: bool
) -> None:
    """Prints each event on a line, and sends it."""
    alerts = Alerts(targets)
    try:
        for event in events:
            if isinstance(event, Message):
                alerts.post(event)
                _print(event, prints_json=prints_json)
            elif not prints_json:
                console.print(f"{escape(str(event))}; waiting for one", soft_wrap=True)
    finally:
        alerts.close(_END_SECONDS)


def _print(message: Message, *, prints_json: bool) -> None:
    if prints_json:
        print_json_line({**header("watch"), **message.as_json()})
    else:
        at = time.strftime("%H:%M:%S", time.localtime(message.time))
        console.print(escape(f"{at} {message.title}: {message.text}"), soft_wrap=True)
    sys.stdout.flush()
