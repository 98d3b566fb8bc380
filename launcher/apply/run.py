"""Carries a plan out: steps in parallel, each after those that it needs; a failed one stops only what needs it."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import TYPE_CHECKING

from anklume_images.errors import AnklumeError, IncusError, IncusUnreachableError, PolicyError
from anklume_images.store.images import Images
from launcher.apply.halt import Halted, halt
from launcher.apply.health import UnhealthyError, wait_for_address, wait_until_healthy
from launcher.apply.outcome import FailedError, RefusedError, Report
from launcher.apply.passing import PAUSE_SECONDS, RETRIES, passes
from launcher.apply.steps import Context, carry_out, claimant_of, stop
from launcher.apply.unpacked import is_idle, is_without_root
from launcher.gpu.claims import confirm
from launcher.plan.difference import Step, step_for
from launcher.plan.render import label
from launcher.prepare import prepare

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from anklume_images.console import Console
    from anklume_images.incus.client import Incus
    from anklume_images.models.library import Models
    from anklume_images.store.store import Store
    from launcher.infra.model import Infra
    from launcher.infra.models import MachineModels
    from launcher.prepare import Prepared
    from launcher.resources import Key

__all__ = ["carry_out_plan", "launch"]

WORKERS = 12
_BACK_SECONDS = 60.0
_STARTING = ("create", "start", "restart", "replace")
_PAST = {
    "create": "created",
    "change": "changed",
    "start": "started",
    "restart": "restarted",
    "replace": "replaced",
}


def launch(
    infra: Infra,
    store: Store,
    incus: Incus,
    console: Console,
    *,
    only: Iterable[str] = (),
    tags: Iterable[str] = (),
    kinds: Iterable[str] = (),
    wait: bool = True,
    neighbours: Sequence[Mapping[str, Any]] = (),
    models: Models | None = None,
    brought: Mapping[str, MachineModels] | None = None,
) -> tuple[Prepared, Report]:
    """Plan and apply without asking; `kinds` limits it to some kinds of objects (projects and volumes, say).

    `neighbours` are instances of another Incus of the same host, `models` and `brought` those that volumes are
    given, as in `prepare`.
    """
    prepared = prepare(
        infra, Images(store), incus, only=only, tags=tags, neighbours=neighbours, models=models, brought=brought
    )
    return prepared, carry_out_plan(prepared, store, incus, console, kinds=kinds, wait=wait)


def carry_out_plan(
    prepared: Prepared,
    store: Store,
    incus: Incus,
    console: Console,
    *,
    kinds: Iterable[str] = (),
    wait: bool = True,
    timeout: float | None = None,
) -> Report:
    """Do what a plan says; FailedError tells what failed. `wait` is for healthchecks, `timeout` theirs in seconds."""
    infra = prepared.infra
    exclusive = infra.settings.gpu_policy == "exclusive"
    context = Context(
        owner=infra.project_name,
        store=store,
        images=Images(store),
        cards=prepared.cards if exclusive else (),
        grants=prepared.gpus.grants if exclusive else {},
        progress=console.note,
    )
    chosen = set(kinds)
    steps = [step for step in prepared.plan.todo if not chosen or step.key.kind in chosen]
    moving = {step.key for step in prepared.plan.moving}
    first = {step.key for step in (*prepared.plan.moving, *prepared.plan.sharing)}
    halting = {step.key: step.key in moving for step in steps if step.key in first}
    context.unpacked.doubt_unfinished(
        (step.resource, prepared.live.get(step.key)) for step in steps if step.key.kind == "machine"
    )
    unchanged = [step for step in prepared.plan.steps if step.key.kind == "machine" and step.action == "none"]
    run = _Run(steps, halting, incus, context, console, wait=wait, timeout=timeout)
    images = [step.resource.image for step in steps if step.key.kind == "image" and step.resource.image]
    with store.lease() if images else contextlib.nullcontext() as lease:
        if lease:  # gc leaves them until their turn comes
            lease.add(file.sha256 for image in images for file in (image.metadata, image.rootfs))
        return run.run(() if kinds or not wait else unchanged)


class _Run:
    def __init__(
        self,
        steps: list[Step],
        halting: Mapping[Key, bool],
        incus: Incus,
        context: Context,
        console: Console,
        *,
        wait: bool,
        timeout: float | None,
    ) -> None:
        self.steps = {step.key: step for step in steps}
        self.halting = halting  # and whether its address is taken off it
        self.incus = incus
        self.context = context
        self.console = console
        self.wait = wait
        self.timeout = timeout
        self.report = Report()
        self.failures: dict[Key, AnklumeError] = {}
        self._local = threading.local()
        self._open: list[Incus] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    def run(self, unchanged: Iterable[Step] = ()) -> Report:
        """Carry the steps out; `unchanged` are machines that have to have their addresses too."""
        begun = time.monotonic()
        self.console.begin(len(self.steps), "applying")
        try:
            with ThreadPoolExecutor(max_workers=WORKERS) as pool:
                try:
                    skipped = self._all(pool)
                    self._look_at(pool, unchanged)
                except BaseException:  # Ctrl-C: what is under way in Incus ends there, nothing new begins
                    self._stopping.set()
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
        finally:
            self.console.finish()
            for connection in self._open:
                connection.close()
        self.report.seconds = time.monotonic() - begun
        if self.failures:
            refused = all(isinstance(error, PolicyError) for error in self.failures.values())
            raise (RefusedError if refused else FailedError)(self.failures, skipped)
        return self.report

    def _all(self, pool: ThreadPoolExecutor) -> int:
        """Carry out every step; return how many were left out. What has to stop first stops when all else is there."""
        if not self.halting:
            return self._schedule(pool, self.steps)
        in_use = {need for key in self.halting for need in self.steps[key].resource.needs if need.kind == "volume"}
        early = {
            key: step
            for key, step in self.steps.items()
            if key.kind != "machine" and key not in in_use and key._replace(kind="volume") not in in_use
        }
        late = {key: step for key, step in self.steps.items() if key not in early}
        skipped = self._schedule(pool, early)
        if self.failures:
            return skipped + len(late)
        halted: list[Halted] = []
        try:
            self._halt(pool, halted)
            return len(late) if self.failures else self._schedule(pool, late)
        finally:
            done = {step.key for step in self.report.done}
            for machine in halted if self.failures else ():
                if machine.key not in done:
                    machine.give_back(self._connection())

    def _look_at(self, pool: ThreadPoolExecutor, unchanged: Iterable[Step]) -> None:
        """See that machines which nothing was done to have their addresses."""

        def look(step: Step) -> None:
            wait_for_address(step.resource, self._connection().within(step.key.project), tell=self._tell)

        looking = {step.key: pool.submit(look, step) for step in unchanged}
        for key, future in looking.items():
            try:
                future.result()
            except AnklumeError as error:
                self.failures[key] = error

    def _halt(self, pool: ThreadPoolExecutor, halted: list[Halted]) -> None:
        """Stop the machines that others wait for; what was stopped is added to `halted`."""
        self.context = replace(self.context, halted=frozenset(self.halting))

        def stop(key: Key) -> Halted:
            return halt(key, self._connection(), vacate=self.halting[key])

        stopping = {key: pool.submit(stop, key) for key in self.halting}
        for key, future in stopping.items():
            try:
                halted.append(future.result())
            except AnklumeError as error:
                self.failures[key] = error

    def _schedule(self, pool: ThreadPoolExecutor, steps: Mapping[Key, Step]) -> int:
        """Begin each step when those that it needs are done; return how many were left out."""
        waiting = dict(steps)
        running: dict[Future[None], Key] = {}
        while waiting or running:
            before = len(waiting)
            for key, step in list(waiting.items()):
                needs = [need for need in step.resource.needs if need in self.steps]
                if any(need in waiting or need in running.values() for need in needs):
                    continue
                if any(need in self.failures for need in needs):
                    self.failures.setdefault(key, _LeftOutError(key.name))
                    del waiting[key]
                    continue
                running[pool.submit(self._one, step)] = waiting.pop(key).key
            if not running and len(waiting) == before:  # two machines that swap their cards, say
                names = ", ".join(key.name for key in waiting)
                error = AnklumeError(f"dependency cycle between {names}", hint="take the card from one of them first")
                self.failures |= dict.fromkeys(waiting, error)
                waiting.clear()
            if running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    key = running.pop(future)
                    try:
                        future.result()
                    except AnklumeError as error:
                        self.failures[key] = error
        left_out = [key for key, error in self.failures.items() if isinstance(error, _LeftOutError)]
        for key in left_out:
            del self.failures[key]
        return len(left_out)

    def _one(self, step: Step) -> None:
        try:
            self._carry_out(step)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise AnklumeError(f"{where}{error.strerror or error}") from error

    def _carry_out(self, step: Step) -> None:
        begun = time.monotonic()
        incus = self._connection()
        cut_off = self._persistently(step, incus)
        text = f"{label(step.resource)}: {_PAST[step.action]} in {time.monotonic() - begun:.1f} s"
        if step.key.kind == "machine":
            self._confirm(step, incus)
            if self.wait:
                seconds = self._wait_until_healthy(step, incus, cut_off=cut_off)
                self.report.healthy[step.resource.machines[0]] = round(seconds, 1)
                text += f", healthy after {time.monotonic() - begun:.1f} s"
        with self._lock:
            self.report.done.append(step)
        self.console.done(text)

    def _wait_until_healthy(self, step: Step, incus: Incus, *, cut_off: bool) -> float:
        """Wait for a machine; one that this step itself has started is started once more where it lacks its network.

        So it may be where the daemon went away as it started (`cut_off`), which nothing else may show. And once, on a
        busy host, one of four that started at once had no address after 20 s, for a reason that was not found. What
        ran before is never stopped for it.
        """
        within = incus.within(step.key.project)
        try:
            return wait_until_healthy(step.resource, within, timeout=self.timeout, tell=self._tell)
        except UnhealthyError as error:
            if step.action not in _STARTING or not (cut_off or error.has_no_network):
                raise
            self.console.note(f"{error.message.splitlines()[0]}; starting it once more")
            stop(incus, step.key)
            incus.set_instance_state(step.key.object, "start")
            return wait_until_healthy(step.resource, within, timeout=self.timeout, tell=self._tell)

    def _tell(self, text: str) -> None:
        if self._stopping.is_set():
            raise AnklumeError("interrupted")
        self.console.note(text)

    def _persistently(self, step: Step, incus: Incus) -> bool:
        """Carry a step out; when the daemon goes away in the middle, wait for it and do what is then left to do.

        Returns whether it did.
        """
        went_away = False
        for attempt in range(RETRIES + 1):
            begun = time.monotonic()
            try:
                if step.action != "none":
                    carry_out(step, incus, self.context)
            except IncusError as error:
                # The daemon that went away had noted the machine after all, later than it was looked for.
                lost = passes(error) or (went_away and step.action == "create" and "already exists" in error.message)
                rootless = step.key.kind == "machine" and step.action == "create" and is_without_root(error)
                if not (lost or rootless) or attempt == RETRIES:
                    raise
                went_away |= isinstance(error, IncusUnreachableError)
                if rootless or (isinstance(error, IncusUnreachableError) and step.key.kind == "machine"):
                    self.context.unpacked.doubt(step.resource, since=begun)
                self.console.note(f"{step.key.name}: {error.message}; waiting for Incus, then going on")
                time.sleep(PAUSE_SECONDS * 2**attempt)
                step = self._again(step, incus, error)
            else:
                break
        return went_away

    def _again(self, step: Step, incus: Incus, error: IncusError) -> Step:
        end = time.monotonic() + _BACK_SECONDS
        while not self._stopping.is_set():
            with contextlib.suppress(IncusUnreachableError):
                current = incus.find_object(step.key.object)
                if step.key.kind == "models":
                    return step  # it looks itself at what is missing
                if step.action == "create" and step.key.kind == "machine" and current is not None and is_idle(current):
                    return replace(step, stopped=True)  # begun just now, by this step: nothing is in it
                return step_for(step.resource, current, replace=step.action == "replace")
            if time.monotonic() > end:
                break
            time.sleep(0.3)
        raise error

    def _confirm(self, step: Step, incus: Incus) -> None:
        """Look at the cards once more: a machine that lost a race is stopped again."""
        grants = self.context.grants.get(step.resource.machines[0], ())
        if grants:
            warnings = confirm(incus, grants, claimant_of(step.resource, self.context), self.context.cards)
            for warning in warnings:
                self.console.warn(warning)
            with self._lock:
                self.report.warnings += warnings

    def _connection(self) -> Incus:
        """This thread's own connection, of no project."""
        connection: Incus | None = getattr(self._local, "incus", None)
        if connection is None:
            connection = self.incus.another().within(None)
            self._local.incus = connection
            with self._lock:
                self._open.append(connection)
        return connection


class _LeftOutError(AnklumeError):
    """A step that a failed one stopped."""
