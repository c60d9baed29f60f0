"""Where the tokens of rows of different lengths lie in one pass without padding between them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise, zip_longest

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

_WORTH_A_PART = 1024  # tokens of padding: with less, further parts cost what they save


@dataclass(frozen=True, slots=True)
class Part:
    """Rows that are attended to together: the tokens from `start` to `stop` of a pass.

    `places` says where they lie in rows padded on the right to `width`; None where nothing is
    padded. The prompts before them are padded on the left to `prompt_width`. Where the rows are but
    the last tokens of longer ones, those are the `whole`.
    """

    start: int
    stop: int
    width: int
    places: Int[Tensor, " token"] | None
    prompts: Int[Tensor, " row"]
    prompt_width: int
    whole: "Part | None" = None
    _masks: dict[int | None, Tensor] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.prompts)

    def mask(self, window: int | None) -> Bool[Tensor, "row 1 time all_time"]:
        """What every token sees: all before it and itself, or the last `window` of them."""
        if window not in self._masks:
            over = self.whole or self
            there = torch.arange(over.prompt_width + over.width, device=self.prompts.device)
            keys = there - (over.prompt_width - over.prompts)[:, None]
            own = self.prompts[:, None] + torch.arange(self.width, device=self.prompts.device)
            distance = own[:, :, None] - keys[:, None, :]
            seen = (keys[:, None, :] >= 0) & (distance >= 0)
            if window is not None:
                seen &= distance < window
            self._masks[window] = seen[:, None]
        return self._masks[window]


@dataclass(frozen=True, slots=True)
class Layout:
    """How rows lie in one packed pass: attended to in this `order`, in these parts.

    Where rows are of several `slots`, those of each lie end to end by themselves, padded to the
    longest slot, and `places` says where in such a pass, slot behind slot, the tokens of `order`
    are. Without slots the pass is in this order.
    """

    order: tuple[int, ...]
    parts: tuple[Part, ...]
    positions: Int[Tensor, "slot time"]
    slots: tuple[int, ...] = ()
    places: Int[Tensor, " token"] | None = None

    def spread(self, tokens: Shaped[Tensor, "token ..."]) -> Shaped[Tensor, "slot _ ..."]:
        """Tokens of `order` where they are in the pass, with zeros for padding."""
        if self.places is None:
            return tokens[None]
        empty = tokens.new_zeros((self.positions.numel(), *tokens.shape[1:]))
        placed = empty.index_copy(0, self.places, tokens)
        return placed.view(*self.positions.shape, *tokens.shape[1:])

    def gathered(
        self, states: Float[Tensor, "slot head time width"]
    ) -> Float[Tensor, "token head width"]:
        """The tokens of `order` out of a pass."""
        return self.taken(states.transpose(1, 2).flatten(0, 1))

    def in_pass(self, tokens: Int[Tensor, " some"]) -> Int[Tensor, " some"]:
        """Where the tokens at these places of `order` are in a pass, slot behind slot."""
        return tokens if self.places is None else self.places[tokens]

    def taken(self, tokens: Shaped[Tensor, "place ..."]) -> Shaped[Tensor, "token ..."]:
        """Those of `order` out of all tokens of a pass, slot behind slot."""
        return tokens if self.places is None else tokens.index_select(0, self.places)


def lay_out(
    prompts: Sequence[int],
    tokens: Sequence[int],
    *,
    device: torch.device,
    slots: Sequence[int] = (),
    tail_of: Layout | None = None,
) -> Layout:
    """The layout of rows that have so many tokens each, after prompts of so many.

    `slots` tells of every row whose it is, counted from 0; without them all are of one. Rows that
    are the last tokens of those in `tail_of` lie in its order and parts.
    """
    order = sorted(range(len(tokens)), key=lambda row: (prompts[row], tokens[row], row))
    lengths = [prompts[row] + tokens[row] for row in order]
    ranges = list(_alike(lengths, 0, len(lengths)))
    wholes: tuple[Part, ...] = ()
    if tail_of is not None:
        order, wholes = list(tail_of.order), tail_of.parts
        ranges = list(pairwise(accumulate((part.rows for part in wholes), initial=0)))
    parts, start = [], 0
    for (first, last), whole in zip_longest(ranges, wholes):
        rows = order[first:last]
        sizes = [prompts[row] for row in rows], [tokens[row] for row in rows]
        parts.append(_part(start, *sizes, device, whole))
        start = parts[-1].stop
    positions = [prompts[row] + place for row in order for place in range(tokens[row])]
    placed = torch.tensor([positions], device=device)
    if not any(slots):
        return Layout(tuple(order), tuple(parts), placed)
    places, shape = _by_slot([slots[row] for row in order], [tokens[row] for row in order])
    there = torch.tensor(places, device=device)
    empty = placed.new_zeros(shape).view(-1).index_copy(0, there, placed[0])
    return Layout(tuple(order), tuple(parts), empty.view(shape), tuple(slots), there)


def _by_slot(slots: Sequence[int], tokens: Sequence[int]) -> tuple[list[int], tuple[int, int]]:
    """Where every token of these rows is when those of a slot lie end to end, and all their room.

    Slots are rows of that room, which is as wide as the longest.
    """
    filled = Counter[int]()
    starts = []
    for slot, count in zip(slots, tokens, strict=True):
        starts.append((slot, filled[slot], count))
        filled[slot] += count
    width = max(filled.values())
    places = [slot * width + start + place for slot, start, n in starts for place in range(n)]
    return places, (max(filled) + 1, width)


def _alike(lengths: Sequence[int], first: int, last: int) -> Iterator[tuple[int, int]]:
    """Ranges of lengths, cut where that saves the most padding, as long as it saves enough."""
    longest = max(lengths[first:last])
    saved, cut = max(
        ((cut - first) * (longest - max(lengths[first:cut])), cut)
        for cut in range(first + 1, last + 1)
    )
    if saved < _WORTH_A_PART:
        yield first, last
    else:
        yield from _alike(lengths, first, cut)
        yield from _alike(lengths, cut, last)


def _part(
    start: int,
    prompts: Sequence[int],
    tokens: Sequence[int],
    device: torch.device,
    whole: Part | None,
) -> Part:
    width = max(tokens)
    places = None
    if min(tokens) < width:
        flat = [row * width + place for row, count in enumerate(tokens) for place in range(count)]
        places = torch.tensor(flat, device=device)
    return Part(
        start,
        start + sum(tokens),
        width,
        places,
        torch.tensor(prompts, device=device),
        max(prompts),
        whole,
    )
