"""The panel at work: asks the logic what the request would give, starts the jobs and shows what comes of them.

Main thread only. What the panel says is decided in `CycleINRLib.panel`, what its widgets look like in `display`.
"""

import logging
from typing import Any

import slicer
from slicer.i18n import tr as _

from CycleINRLib.child import dependencies
from CycleINRLib.child.environment import lines_of
from CycleINRLib.errors import CycleINRError
from CycleINRLib.jobs import UpsampleJob
from CycleINRLib.panel.readout import information, region_text
from CycleINRLib.panel.state import Panel
from CycleINRLib.scene.sequences import frames_of
from CycleINRLib.scene.volumes import report_of, result_name
from CycleINRLib.upsampling.speed import expected_seconds
from CycleINRParts.difference import shown_difference
from CycleINRParts.display import Display
from CycleINRParts.hierarchy import chosen_item
from CycleINRParts.jobs import Jobs, Quiet
from CycleINRParts.logic import stamp
from CycleINRParts.previews import Ahead
from CycleINRParts.request import Request
from CycleINRParts.results import Results
from CycleINRParts.statusbar import StatusBar

TICK_MS = 100
STATUS_MS = 3000


class Controller:
    """
    :param ui: the widgets by name
    :param logic: of the module
    :param requirements: path of the list of Python packages that computing needs
    """

    def __init__(self, ui, logic, requirements: str) -> None:
        import qt

        self._ui, self._logic, self._requirements = ui, logic, requirements
        self.panel = Panel()
        self.jobs = Jobs(self.panel)
        self.check_run = Quiet()
        self.request = Request(ui, logic.modelNames(), self.look)
        self.display, self.results, self._bar = Display(ui), Results(logic), StatusBar()
        self.entered = True  # whether the panel is on screen
        self._made: list[Any] = []  # by the queue that is worked off
        self._judged, self._judgement = (), ""  # scans with options, and why no model can be adapted to them
        self._preparing = self._is_provisional = False
        self._ahead = Ahead(logic, requirements, self._next_preview, self._chosen, lambda: self.jobs.run is not None)
        self._connect()
        self.timer = qt.QTimer()
        self.timer.setInterval(TICK_MS)
        self.timer.connect("timeout()", self.tick)

    def _connect(self) -> None:
        ui = self._ui
        for button, slot in (
            (ui.applyButton, self.on_apply),
            (ui.previewButton, self.on_preview),
            (ui.compareButton, self.on_compare),
            (ui.noiseButton, self.on_noise),
            (ui.differenceButton, self.on_difference),
            (ui.exportButton, self.on_export),
            (ui.segmentationButton, self.on_segmentation),
            (ui.folderButton, self.on_folder),
            (ui.drawButton, self.on_draw),
            (ui.adaptButton, self.on_adapt),
            (ui.checkButton, self.on_check),
            (ui.copyButton, self.on_copy),
        ):
            button.connect("clicked(bool)", slot)

    # --- life -------------------------------------------------------------------------------------------------
    def bind(self, parameters) -> None:
        """
        :param parameters: the wrapped parameter node, which the panel follows; None: it follows none
        """
        told = self.request.bind(parameters)
        if parameters is not None and parameters.resultVolume is not None:
            self.panel.recall(report_of(parameters.resultVolume))
            self.results.resume(parameters.resultVolume)
        self.look()
        if told:
            self._note(told)

    def scene_closes(self) -> None:
        """Nothing of the scene is kept."""
        self.results.close()
        self._made = []
        self.bind(None)
        self.panel.forget()

    def close(self) -> None:
        """The application closes, or the module is loaded anew."""
        self.timer.stop()
        self.results.views.forget()
        self.check_run.drop()
        self._bar.end()
        self.request.bind(None)
        self._ahead.end()

    def tick(self) -> None:
        """Listens to the children; runs ten times a second on the main thread, where the scene may be touched."""
        self.jobs.tick()
        self.check_run.tick()
        if not (self.jobs.run or self.check_run.busy):
            self.timer.stop()
        self.show()

    # --- the request ------------------------------------------------------------------------------------------
    def look(self) -> None:
        """Asks whether the request can run, and what it would give."""
        asked = self.request.parameters
        if asked is None:
            self.panel.aim(_("No scene is open."))
            self.panel.aim_adapt(_("No scene is open."))
        else:
            self.request.watch()
            try:
                self._aim(asked)
            except CycleINRError as error:
                self.panel.aim(str(error))
            self.panel.aim_adapt(self._why_not_adapt())
            self.request.show()
            self.display.request(asked, len(self.request.volumes()), frames_of(asked.inputVolume))
        self._ahead.look()
        self.show()

    def _aim(self, asked) -> None:
        request, frames = self.request.of_upsample(), self._frames()
        output = self._output()
        source, plan = self._logic.outlook(asked.inputVolume, outputVolume=output, **request)
        ids = [node.GetID() for node in (*self.request.volumes(), output) if node]
        key = (*ids, plan.target.shape, plan.target.ijk_to_ras.tobytes(), repr({**request, "region": None}), frames)
        names = ("noise", "model", "device", "precision")
        job = UpsampleJob(self_check=asked.selfCheck, **{name: request[name] for name in names})
        seconds = expected_seconds(source, plan, job)
        seconds = frames * seconds if seconds else None
        name = output.GetName() if output is not None else result_name(asked.inputVolume, plan.z_scale)
        region = region_text(source, plan, seconds) if asked.region is not None else ""
        rows = information(source, plan, seconds, name=name, region=region, frames=frames)
        self.panel.aim("", rows, plan.warnings, key)
        if region:  # while its handles are dragged, the eyes are on the views
            slicer.util.showStatusMessage(f"CycleINR: {region}", STATUS_MS)

    def _next_preview(self):
        """(Scan, arguments) of a preview that could be asked for now; None: there is none."""
        asked = self.request.parameters
        if asked is None or not self.entered or not self.panel.can_run:
            return None
        return asked.inputVolume, self.request.of_upsample()

    def _chosen(self):
        """The scan that is chosen, None for none; False where the module is not in use."""
        asked = self.request.parameters
        return asked.inputVolume if asked is not None and self.entered else False

    def _frames(self) -> int:
        asked = self.request.parameters
        frames = frames_of(asked.inputVolume) if asked.allFrames else None
        return len(frames) if frames else 1

    def _output(self):
        """The volume to fill, where there is just one result."""
        one = len(self.request.volumes()) == 1 and self._frames() == 1
        return self.request.parameters.outputVolume if one else None

    def _why_not_adapt(self) -> str:
        """Looks at all voxels of all chosen scans, so only where something changed."""
        try:
            nodes, request = self.request.volumes(), self.request.of_adapt()
        except CycleINRError as error:
            return str(error)
        judged = (*(stamp(node) for node in nodes), *request.values())
        if judged != self._judged:
            self._judged, self._judgement = judged, ""
            try:
                self._logic.checkAdaptable(nodes, **request)
            except CycleINRError as error:
                self._judgement = str(error)
        return self._judgement

    def show(self) -> None:
        """Copies what the panel says into the widgets, and into the status bar while they are hidden."""
        view, asked = self.panel.view(), self.request.parameters
        result = asked.resultVolume if asked is not None else None
        self.display.view(view)
        self.display.result(result, self.results.views.shown, view, bool(self.results.segmentations(result)))
        if self.jobs.run is not None and not self.entered:
            self._bar.show(view.percent, view.message)
        else:
            self._bar.end("" if self.entered else view.message)

    # --- buttons ----------------------------------------------------------------------------------------------
    def on_apply(self, checked: bool = False) -> None:
        """Starts the jobs; while they run, the same button stops them."""
        if self.jobs.run:
            self.jobs.cancel()
        elif self._may_overwrite() and self._prepare():
            nodes, output = self.request.volumes(), self._output()
            request = {**self.request.of_upsample(), "self_check": self.request.parameters.selfCheck}
            every_frame, self._made = self.request.parameters.allFrames, []

            def start(node):
                if every_frame and frames_of(node) is not None:
                    return self._logic.upsampleSequence(node, wait=False, **request)
                return self._logic.upsample(node, outputVolume=output, wait=False, **request)

            self.panel.start([node.GetName() for node in nodes])
            self.jobs.begin([lambda n=node: start(n) for node in nodes], self._finish, self._finished)
            self.timer.start()
        self.show()

    def _may_overwrite(self) -> bool:
        """What a chosen output holds is gone afterwards: the user is asked first."""
        output = self._output()
        if output is None or output.GetImageData() is None or self._preparing:
            return True
        question = _("{name} already holds a volume. Its voxels will be replaced by the result. Continue?")
        return bool(slicer.util.confirmOkCancelDisplay(question.format(name=output.GetName()), windowTitle="CycleINR"))

    def _finish(self, outcome) -> None:
        node, reports = outcome
        report = reports[0] if isinstance(reports, list) else reports  # of the first frame
        self._logic.getParameterNode().resultVolume = node  # the user may be in another module
        self._made.append(node)
        self.panel.finish(report, node.GetName())

    def _finished(self) -> None:
        """All jobs of the queue have ended."""
        made, self._made = self._made, []
        try:
            self.results.show(made)
        except CycleINRError:  # the results are there; a scan that went meanwhile cannot be compared with them
            logging.exception("CycleINR: the results cannot be shown")

    def on_preview(self, checked: bool = False) -> None:
        """Computes two planes at the crosshair and shows them beside the scan."""
        if self._prepare(keep_preview=True):
            self.panel.start_preview()
            node, request = self.request.parameters.inputVolume, self.request.of_upsample()
            request |= {"into": self.results.previews_of(node), "provisional": self._show_provisional, "stay": True}
            start = lambda: self._logic.preview(node, wait=False, **request)  # noqa: E731
            self.jobs.begin([start], self._show_preview, self._preview_ended)
            self.timer.start()
        self.show()

    def _show_provisional(self, planes: dict) -> None:
        self._is_provisional = True
        self.results.show_preview(planes)
        self.panel.preview_is_provisional()

    def _show_preview(self, planes: dict) -> None:
        self._is_provisional = False
        if not self.results.holds(planes):  # else they are where the user has them by now
            self.results.show_preview(planes)
        self.panel.preview_shown()

    def _preview_ended(self) -> None:
        """A provisional picture does not stay where the network gave none."""
        if self._is_provisional:
            self._is_provisional = False
            self.results.drop_previews()

    def on_adapt(self, checked: bool = False) -> None:
        """Adapts the model to the chosen scans, all of them together."""
        if self._prepare():
            nodes = self.request.volumes()
            request = {**self.request.of_adapt(), "minutes": self.request.parameters.adaptMinutes or None}
            self.panel.start_adapt()
            self.jobs.begin([lambda: self._logic.adapt(nodes, wait=False, **request)], self._finish_adapt)
            self.timer.start()
        self.show()

    def _finish_adapt(self, outcome) -> None:
        path, report = outcome
        if report["improved"]:  # first: a changed request takes the message away
            self._logic.getParameterNode().modelFile = str(path)
        self.panel.adapted(report)

    def _prepare(self, keep_preview: bool = False) -> bool:
        """Whether the child will find its packages; the user is asked before anything is installed."""
        if self._preparing:  # a second click while packages are being installed
            return False
        self.look()  # a change that waits to be looked at
        if not keep_preview or not self.results.previews_of(self.request.parameters.inputVolume):
            self.results.drop_previews()
        self._preparing = True
        try:
            return dependencies.ensure(self._requirements, self._say)
        except CycleINRError as error:
            self.panel.fail(error)
            return False
        finally:
            self._preparing = False

    def _say(self, message: str) -> None:
        self.panel.say(message)
        self.show()
        slicer.app.processEvents()  # pip blocks the main thread

    def _try(self, step) -> Any:
        """What a button did; its error is told in the panel."""
        try:
            return step()
        except CycleINRError as error:
            self.panel.fail(error)
            return None
        finally:
            self.show()

    def on_compare(self, checked: bool = False) -> None:
        """Scan and result side by side; on the next click the earlier layout."""
        result = self.request.parameters.resultVolume if self.request.parameters else None
        if self.results.views.shown:
            self.results.views.restore()
            self.results.drop_previews()
        elif result is not None:
            self._try(lambda: self.results.compare(result))
        self.show()

    def on_noise(self, checked: bool = False) -> None:
        """The noise of each slice as a plot."""
        self._try(lambda: self.results.plot(self.request.parameters.resultVolume))

    def on_difference(self, checked: bool = False) -> None:
        """What was taken from the scan as noise, beside it; made on the first click."""
        result = self.request.parameters.resultVolume
        known = shown_difference(result)
        if known is not None:
            self._try(lambda: self._show_difference(result, known))
        elif self._prepare():
            self.panel.start_difference()
            start = lambda: self._logic.difference(result, wait=False)  # noqa: E731
            self.jobs.begin([start], lambda node: self._show_difference(result, node))
            self.timer.start()
        self.show()

    def _show_difference(self, result, node) -> None:
        self.results.show_difference(result, node)
        self.panel.difference_shown()

    def on_export(self, checked: bool = False) -> None:
        """The figures as a file for a report."""
        path = self._try(lambda: self.results.export(self.request.parameters.resultVolume))
        if path:
            self._note(_("Written: {path}").format(path=path))

    def on_segmentation(self, checked: bool = False) -> None:
        """The segmentations that were drawn on the scan, on the result."""
        made = self._try(lambda: self._logic.carrySegmentations(self.request.parameters.resultVolume))
        if made:
            self._note(_("Made: {names}").format(names=", ".join(node.GetName() for node in made)))

    def on_folder(self, checked: bool = False) -> None:
        """Marks the scans of what is selected in the subject hierarchy, or of the scan's own folder."""
        item, name = chosen_item(self.request.parameters.inputVolume)
        nodes, left = self._logic.series(item)
        self.request.choose_volumes(nodes)
        text = _("{name}: {count} volumes are chosen.").format(name=name, count=len(self.request.volumes()))
        others = "; ".join(f"{one}: {why}" for one, why in left.items())
        self._note(" ".join([text, _("Left out: {others}").format(others=others)]) if left else text)

    def on_draw(self, checked: bool = False) -> None:
        """A region of interest, drawn in a slice view."""
        if self._try(lambda: self.request.draw_region() or True):
            self._note(_("Click two corners of the region in the slice views, then drag its handles."))

    def _note(self, text: str) -> None:
        self.panel.note(text)
        self.show()

    def on_check(self, checked: bool = False) -> None:
        """Tries packages, devices and models in a child process and tells what it found."""
        self._ui.environmentLabel.text = _("Checking; this takes some seconds…")
        self.check_run.begin(lambda: self._logic.check(wait=False), self._show_environment)
        self.timer.start()

    def _show_environment(self, outcome) -> None:
        lines = [str(outcome)] if isinstance(outcome, CycleINRError) else [f"{a}: {b}" for a, b in lines_of(outcome)]
        self._ui.environmentLabel.text = "\n".join(lines)

    def on_copy(self, checked: bool = False) -> None:
        """What a report of the problem should contain."""
        import qt

        qt.QApplication.clipboard().setText(self.panel.view().details)
