"""Rows of text in the tables of the panel."""

from collections.abc import Sequence

ROOM = 4  # pixels around all rows


class TextTable:
    """A QTableWidget that holds nothing but text and tooltips, just as high as its rows."""

    def __init__(self, table) -> None:
        self._table = table
        self._items: list = []  # Qt does not keep a Python reference to them
        self._shown: tuple = ()
        table.visible = False

    def show(self, rows: Sequence[Sequence[str]]) -> None:
        """One row of texts each; the last entry is the tooltip of the whole row. An empty table is hidden."""
        import qt

        rows = tuple(tuple(row) for row in rows)
        if rows == self._shown:
            return
        self._table.visible = bool(rows)
        self._shown, self._items = rows, []
        self._table.setRowCount(len(rows))
        for r, (*texts, tip) in enumerate(rows):
            for c, text in enumerate(texts):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(_wrapped(tip))
                self._table.setItem(r, c, item)
                self._items.append(item)
        self.fit()

    def fit(self) -> None:
        """As high as its rows, so that the panel scrolls and not the table."""
        self._table.resizeRowsToContents()
        header = self._table.horizontalHeader()
        height = 0 if header.isHidden() else header.height
        rows = sum(self._table.rowHeight(r) for r in range(len(self._shown)))
        self._table.setFixedHeight(height + rows + ROOM)


def _wrapped(tip: str) -> str:
    """Rich text: Qt breaks the lines of such tooltips, and of no other."""
    text = tip.replace("&", "&amp;").replace("<", "&lt;")
    return f"<qt>{text}</qt>" if text else ""
