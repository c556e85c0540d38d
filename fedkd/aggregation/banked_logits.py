"""Logits of every institution for each banked sample, so that targets can be fused again."""

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor

from fedkd.core.checkpoint_state import State

_PREFIX, _ROWS = "logits/", "banked_rows"


class BankedLogits:
    """One row for each banked sample, oldest first; NaN where an institution did not answer.

    Args:
        capacity: of the bank; None: it keeps all.
        dtype: of what is kept. Answers come as float16, unless they were asked for exactly.
    """

    def __init__(self, capacity: int | None, dtype: torch.dtype = torch.float32) -> None:
        self.capacity, self.dtype = capacity, dtype
        self.by_name: dict[str, Tensor] = {}
        """(N, K_i) by institution."""
        self._rows = 0  # also of those that only institutions answered that were dropped

    def __len__(self) -> int:
        return self._rows

    def add(self, logits: Mapping[str, Tensor], selected: Tensor | None) -> None:
        """Keep the rows of a batch that enter the bank.

        Args:
            logits: (B, K_i) by institution; K_i never changes.
            selected: (B,) bool; None: all.
        """
        first = next(iter(logits.values()))
        keep = torch.ones(len(first), dtype=torch.bool) if selected is None else selected.cpu()
        before = len(self)
        for name in self.by_name.keys() | logits.keys():
            known = self.by_name[name] if name in self.by_name else logits[name]
            absent = known.new_full((1, known.shape[1]), torch.nan, dtype=self.dtype)
            old = self.by_name.get(name, absent.expand(before, -1))
            new = logits.get(name, absent.expand(len(first), -1)).to(self.dtype)
            self.by_name[name] = self.last(torch.cat([old, new[keep]]))
        after = before + int(keep.sum())
        self._rows = after if self.capacity is None else min(after, self.capacity)

    def drop(self, names: Collection[str]) -> None:
        """Forget the answers of these institutions."""
        self.by_name = {n: kept for n, kept in self.by_name.items() if n not in names}

    def last(self, rows: Tensor) -> Tensor:
        """The rows of what is still banked."""
        return rows if self.capacity is None else rows[-self.capacity :]

    def rows(self, at: Tensor) -> dict[str, Tensor]:
        """Rows (n,) of everybody, as float32."""
        return {name: kept[at].float() for name, kept in self.by_name.items()}

    def common_rows(
        self, among: Collection[str], at: Tensor, least: int
    ) -> tuple[list[str], dict[str, Tensor]]:
        """Rows ``at``, (n,), that these institutions answered all, as float32.

        Who answered fewest, late or early, is left out until there are ``least`` such rows.

        Returns:
            Names in their order, none where there are too few rows; and their rows.
        """
        kept = self.rows(at)
        present = {name: ~kept[name][:, 0].isnan() for name in sorted(set(among) & kept.keys())}
        names = sorted(present, key=lambda name: (-int(present[name].sum()), name))
        while names:
            common = torch.stack([present[name] for name in names]).all(0)
            if int(common.sum()) >= least:
                return sorted(names), {name: kept[name][common] for name in names}
            names.pop()
        return [], {}

    def by_presence(
        self, among: Collection[str], rows_at_once: int
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """All rows, in pieces in which the same institutions answered: (n,) places and logits.

        None where only institutions answered that were dropped, or are not among these.

        Args:
            among: institutions; others are as if they had never answered.
            rows_at_once: most rows of a piece.
        """
        names = sorted(self.by_name.keys() & set(among))
        if not names:
            return
        present = torch.stack([~self.by_name[name][:, 0].isnan() for name in names], 1)
        patterns: dict[tuple[bool, ...], list[int]] = {}
        for row, pattern in enumerate(present.tolist()):
            patterns.setdefault(tuple(pattern), []).append(row)
        for answered, rows in patterns.items():
            there = [name for name, has in zip(names, answered, strict=True) if has]
            for at in torch.split(torch.tensor(rows), rows_at_once):
                yield at, {name: self.by_name[name][at].float() for name in there}

    def state(self) -> State:
        """All of it."""
        own = {f"{_PREFIX}{name}": kept.clone() for name, kept in self.by_name.items()}
        return State({**own, _ROWS: torch.tensor(self._rows)})

    def restore(self, state: State) -> None:
        """Keep what was kept when ``state`` was taken."""
        self.by_name = {
            key.removeprefix(_PREFIX): tensor.clone()
            for key, tensor in state.tensors.items()
            if key.startswith(_PREFIX)
        }
        self._rows = int(state.tensors[_ROWS])
