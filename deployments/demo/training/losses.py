"""The losses: of the answer's tokens, and of auxiliary heads.

The heads read each thing's box, outline, colour and category, and all letters, from the encoder's
states of the image cells. Without them, boxes take ten times as long to learn, and an encoder that
has learned only boxes no longer knows colours.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from deployments.demo.scenes import COLOURS
from deployments.demo.training.data import CATEGORIES, IGNORED, SUBCELLS, Batch, Cells
from deployments.demo.training.model import GRID, WIDTH
from deployments.demo.training.scores import BINS
from deployments.demo.words import LETTERS

LETTER_WEIGHT = 0.3  # with more, boxes are learned later
WORD_WEIGHT = 2.0  # a word's token counts this much more than a location's
FIRST_WEIGHT = 6.0  # and the first of either, which decides whether there is an answer, late


class AuxiliaryHeads(nn.Module):
    """Heads on the encoder's states of image cells; they are not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.sides = nn.Linear(WIDTH, 4 * WIDTH)  # x1, y1, x2, y2, read as location tokens
        self.objectness = nn.Linear(WIDTH, 1)
        self.distances = nn.Linear(WIDTH, 4)  # from the cell's centre to the box's sides
        self.corners = nn.Linear(WIDTH, 8)  # of the outline, from the cell's centre
        self.colour = nn.Linear(WIDTH, len(COLOURS))
        self.category = nn.Linear(WIDTH, len(CATEGORIES))
        self.letters = nn.Linear(WIDTH, 4 * (1 + len(LETTERS)))  # in each quarter of the cell
        self.seen_letters = nn.Linear(WIDTH, 4 * (1 + len(LETTERS)))  # before the encoder

    def losses(
        self, seen: Tensor, states: Tensor, batch: Batch, locations: Tensor, sigma: float
    ) -> dict[str, Tensor]:
        """Losses by name, of what the vision tower and the encoder make of each cell.

        `seen` and `states` are (B, GRID * GRID, WIDTH), `locations` (BINS, WIDTH).
        """
        cells = batch.cells
        inside = states[cells.scene, cells.cell]  # (K, WIDTH)
        sides = self.sides(inside).view(-1, 4, WIDTH) @ locations.T  # (K, 4, BINS)
        is_object = torch.zeros(states.shape[:2])
        is_object[cells.scene, cells.cell] = 1.0
        return {
            "sides": soft_location_loss(sides, cells.box * BINS - 0.5, sigma).mean(),
            "objectness": functional.binary_cross_entropy_with_logits(
                self.objectness(states).squeeze(-1), is_object
            ),
            "distances": 5 * functional.l1_loss(self.distances(inside), _distances(cells)),
            "colour": functional.cross_entropy(self.colour(inside), cells.colour),
            "corners": 2 * functional.l1_loss(self.corners(inside), _to_corners(cells)),
            "category": functional.cross_entropy(self.category(inside), cells.category),
            "letters": LETTER_WEIGHT * _letter_loss(self.letters(states), batch.letters),
            "seen": LETTER_WEIGHT * _letter_loss(self.seen_letters(seen), batch.letters),
        }


def answer_loss(
    logits: Tensor, batch: Batch, locations: slice, sigma: float, is_late: bool = False
) -> Tensor:
    """The mean loss of answer tokens; `logits` (B, T, vocabulary), `sigma` in location bins.

    A location counts as nearly right when it is near (a Gaussian over the bins), a word does not.
    """
    labels = batch.labels
    log_probs = logits.log_softmax(-1)
    is_location = (labels >= locations.start) & (labels < locations.stop)
    is_word = (labels != IGNORED) & ~is_location
    weights = WORD_WEIGHT * is_word + is_location.float()
    if is_late:
        weights[:, 1] = FIRST_WEIGHT
    target = _gaussians((labels[is_location] - locations.start).float(), sigma)
    losses = torch.zeros_like(weights)
    losses[is_word] = functional.nll_loss(log_probs[is_word], labels[is_word], reduction="none")
    losses[is_location] = -(target * log_probs[is_location][:, locations]).sum(-1)
    mean: Tensor = (losses * weights).sum() / weights.sum()
    return mean


def _letter_loss(scores: Tensor, letters: Tensor) -> Tensor:
    """Which letter has its middle in each quarter of a cell; few quarters have one."""
    quarters = scores.view(-1, GRID, GRID, 2, 2, 1 + len(LETTERS)).permute(0, 1, 3, 2, 4, 5)
    scores = quarters.reshape(-1, SUBCELLS, SUBCELLS, 1 + len(LETTERS))
    there = letters > 0
    nothing = functional.cross_entropy(scores[~there], letters[~there])
    if not there.any():
        return nothing
    return nothing + functional.cross_entropy(scores[there], letters[there])


def soft_location_loss(logits: Tensor, centre: Tensor, sigma: float) -> Tensor:
    """Cross-entropy of `logits` (..., BINS) against Gaussians at `centre` (...), in bins."""
    return -(_gaussians(centre, sigma) * logits.log_softmax(-1)).sum(-1)


def _gaussians(centre: Tensor, sigma: float) -> Tensor:
    """(..., BINS) probabilities around each centre (...)."""
    offset = (torch.arange(BINS) - centre[..., None]) / sigma
    return functional.softmax(-0.5 * offset**2, dim=-1)


def _to_corners(cells: Cells) -> Tensor:
    """(K, 8) x, y from each cell's centre to the corners of its thing."""
    x, y = _centres(cells)
    return cells.corners - torch.stack([x, y], dim=1).repeat(1, 4)


def _distances(cells: Cells) -> Tensor:
    """(K, 4) from each cell's centre to the left, top, right and bottom of its object's box."""
    x, y = _centres(cells)
    x1, y1, x2, y2 = cells.box.unbind(1)
    return torch.stack([x - x1, y - y1, x2 - x, y2 - y], dim=1)


def _centres(cells: Cells) -> tuple[Tensor, Tensor]:
    """x and y (K,) of the cells' centres, as parts of the image's side."""
    return (cells.cell % GRID + 0.5) / GRID, (cells.cell // GRID + 0.5) / GRID
