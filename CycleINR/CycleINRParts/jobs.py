"""What the panel has running: a queue of jobs, one at a time, and quiet runs beside it. Main thread only."""

import logging
from collections.abc import Callable, Sequence

from CycleINRLib.child.run import Run
from CycleINRLib.errors import Cancelled, CycleINRError
from CycleINRLib.panel.state import Panel

Start = Callable[[], Run]


class Jobs:
    """Works off a queue and tells the `Panel` what happens.

    :param panel: hears events, failures and the end
    """

    def __init__(self, panel: Panel) -> None:
        self._panel = panel
        self.run: Run | None = None
        self._waiting: list[Start] = []
        self._finished: Callable = print
        self._ended: Callable = print
        self._asked_to_stop = False

    def begin(self, starts: Sequence[Start], finished: Callable, ended: Callable = lambda: None) -> None:
        """
        :param starts: each starts one job; called when the job before has ended
        :param finished: called with the outcome of each job that succeeded; it tells the panel
        :param ended: called when none is left, whatever came of them
        """
        self._waiting, self._asked_to_stop = list(starts), False
        self._finished, self._ended = finished, ended
        self._next()

    def cancel(self) -> None:
        """Ends the present job and forgets the others."""
        self._waiting, self._asked_to_stop = [], True
        if self.run is not None:
            self.run.cancel()
        self._panel.cancel()

    def tick(self) -> None:
        """Moves events over and goes on; to be called several times a second."""
        run = self.run
        if run is None:
            return
        for event in run.poll():
            self._panel.hear(event)
        if run.done:
            self.run = None
            self._end(run)
            self._next()

    def _end(self, run: Run) -> None:
        try:
            outcome = run.result()
        except Cancelled as error:
            self._waiting = []
            if self._asked_to_stop:
                self._panel.fail(error)
            else:  # the scene was closed, or the input removed
                self._panel.stop(str(error))
        except CycleINRError as error:
            self._panel.fail(error, run.log)
        else:
            self._use(outcome)

    def _use(self, outcome) -> None:
        try:
            self._finished(outcome)
        except Exception as error:  # the panel must not stay busy for ever
            logging.exception("CycleINR: the result cannot be shown")
            found = f"{type(error).__name__}: {error}"
            self._panel.fail(CycleINRError("The result cannot be shown", found, "report this with the details"))

    def _next(self) -> None:
        while self._waiting and self.run is None:
            start = self._waiting.pop(0)
            try:
                self.run = start()
            except CycleINRError as error:
                self._panel.fail(error)
        if self.run is None:
            ended, self._ended = self._ended, lambda: None
            ended()


class Quiet:
    """One run that the user need not wait for; a new one takes the place of the old one."""

    def __init__(self) -> None:
        self._run: Run | None = None
        self._heard: Callable = print

    @property
    def busy(self) -> bool:
        return self._run is not None

    def begin(self, start: Start, heard: Callable) -> None:
        """
        :param start: starts the run
        :param heard: called with its outcome, or with the CycleINRError that it ended with
        """
        self.drop()
        self._heard = heard
        try:
            self._run = start()
        except CycleINRError as error:
            heard(error)

    def tick(self) -> None:
        run = self._run
        if run is None or not run.done:
            return
        self._run = None
        try:
            outcome = run.result()
        except CycleINRError as error:
            outcome = error
        self._heard(outcome)

    def drop(self) -> None:
        """Ends it; nobody hears of it."""
        run, self._run = self._run, None
        if run is not None:
            run.discard()
