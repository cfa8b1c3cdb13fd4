"""Agreement of the model's suggestions with the people who read the cells. Pure: no I/O.

The readers saw the suggestion, and doubtful cells are read first: this is no verification (`marrowlens verify` is).
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from model.agreement.kappa import cohen_kappa
from model.agreement.proportion import wilson
from service.lis.schemas import Agreement, ClassAgreement, ReaderAgreement, Share
from service.lis.training_list import ReadCell

#: Fewest read cells of a table, and of one class or reader, for which shares are given.
MIN_CELLS, MIN_PART = 50, 10
Pair = tuple[str, str]  # label, suggestion


def agreement_of(cells: Sequence[ReadCell]) -> Agreement:
    """The table over all read cells; without shares and kappa if there are fewer than `MIN_CELLS`."""
    pairs = [(cell.label, cell.suggested) for cell in cells]
    enough = len(cells) >= MIN_CELLS
    readers = Counter(cell.reader for cell in cells)
    return Agreement(
        cells=len(cells),
        patients=len({cell.patient for cell in cells}),
        minimum=MIN_CELLS,
        enough=enough,
        agreement=_agreement(pairs, MIN_CELLS),
        kappa=_kappa(pairs) if enough else None,
        classes=[_of_class(pairs, code) for code in sorted({code for pair in pairs for code in pair})],
        readers=[_of_reader(cells, reader) for reader, _ in sorted(readers.items())],
        confusion=_confusion(pairs),
    )


def _share(hits: int, n: int, minimum: int) -> Share:
    if n < minimum:
        return Share(hits=hits, n=n)
    low, high = wilson(hits, n)
    return Share(hits=hits, n=n, share=hits / n, low=low, high=high)


def _agreement(pairs: Sequence[Pair], minimum: int) -> Share:
    return _share(sum(label == suggested for label, suggested in pairs), len(pairs), minimum)


def _of_class(pairs: Sequence[Pair], code: str) -> ClassAgreement:
    hits = sum(pair == (code, code) for pair in pairs)
    read, suggested = (sum(pair[side] == code for pair in pairs) for side in (0, 1))
    return ClassAgreement(
        code=code, of_read=_share(hits, read, MIN_PART), of_suggested=_share(hits, suggested, MIN_PART)
    )


def _of_reader(cells: Iterable[ReadCell], reader: str) -> ReaderAgreement:
    pairs = [(cell.label, cell.suggested) for cell in cells if cell.reader == reader]
    return ReaderAgreement(reader=reader, agreement=_agreement(pairs, MIN_PART))


def _kappa(pairs: Sequence[Pair]) -> float | None:
    codes = sorted({code for pair in pairs for code in pair})
    at = {code: index for index, code in enumerate(codes)}
    counts = np.zeros((len(codes), len(codes)), np.int64)
    for label, suggested in pairs:
        counts[at[label], at[suggested]] += 1
    found = float(cohen_kappa(counts))
    return None if np.isnan(found) else found


def _confusion(pairs: Sequence[Pair]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for (label, suggested), count in sorted(Counter(pairs).items()):
        found.setdefault(label, {})[suggested] = count
    return found
