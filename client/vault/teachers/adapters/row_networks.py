"""Networks and servers that read rows in their own units, (B, D): opened as those of images are.

To such a format a row is an image of (1, 1, D), so its checks and limits are the same.
"""

from fedkd.client.vault.teachers.adapters.table_layout import TableLayout
from fedkd.models import RowNetworkTeacher, Teacher


def row_network_teacher(inner: Teacher, layout: TableLayout) -> RowNetworkTeacher:
    """A teacher of such images as one of rows."""
    return RowNetworkTeacher(inner, layout.numeric, layout.columns, layout.numbers)
