"""Opens a report in a tab of a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class OpenPage:
    """A page in a tab, with its console errors."""

    def __init__(self, browser: Any, path: Path, *, width: int = 1280, scheme: str = "light") -> None:
        self.wrong: list[str] = []
        self.tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.tab.on("console", lambda message: self._printed(message.text))
        self.tab.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.tab.on("request", lambda request: self._requested(request.url))
        self.tab.on("dialog", lambda dialog: self.wrong.append(dialog.message))
        self.tab.goto(path.as_uri())

    def _printed(self, text: str) -> None:
        if (
            "Too many auto-margin redraws" not in text
        ):  # plotly, if a tick label at the edge comes and goes with its margin
            self.wrong.append(text)

    def _requested(self, url: str) -> None:
        if not url.startswith(("file:", "data:", "blob:")):
            self.wrong.append(url)

    def figure(self, name: str) -> Any:
        """Waits until the figure matches the controls."""
        figure = self.tab.locator(f"#figure-{name}")
        figure.scroll_into_view_if_needed()
        self.tab.wait_for_function(
            "(one) => one.dataset.drawn === document.body.dataset.version",
            arg=figure.element_handle(),
        )
        return figure

    def plotted(self, name: str) -> Any:
        """The data of a plotly figure."""
        script = "(one) => { const plot = one.querySelector('.plot'); return JSON.parse(JSON.stringify({"
        script += " traces: plot.data.map((t) => ({x: [...t.x], name: t.name, pick: t.meta.pick, y: [...t.y]})),"
        script += " x: plot.layout.xaxis.title.text, y: plot.layout.yaxis.type, shapes: plot.layout.shapes })) }"
        return self.figure(name).evaluate(script)

    def press(self, switch: str, value: str) -> None:
        self.tab.locator(f"[data-switch={switch}] [data-value={value}]").click()
