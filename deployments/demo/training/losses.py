"""The losses: of the answer's tokens, and of auxiliary heads.

The heads read each object's box, colour and shape from the encoder's states of the image cells that
it covers. Without them, boxes take ten times as long to learn, and an encoder that has learned only
boxes no longer knows colours.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from deployments.demo.scenes import COLOURS, SHAPES
from deployments.demo.training.data import IGNORED, Batch, Cells
from deployments.demo.training.model import GRID, WIDTH
from deployments.demo.training.tasks import BINS

WORD_WEIGHT = 2.0  # a word's token counts this much more than a location's


class AuxiliaryHeads(nn.Module):
    """Heads on the encoder's states of image cells; they are not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.sides = nn.Linear(WIDTH, 4 * WIDTH)  # x1, y1, x2, y2, read as location tokens
        self.objectness = nn.Linear(WIDTH, 1)
        self.distances = nn.Linear(WIDTH, 4)  # from the cell's centre to the box's sides
        self.colour = nn.Linear(WIDTH, len(COLOURS))
        self.shape = nn.Linear(WIDTH, len(SHAPES))

    def losses(
        self, states: Tensor, cells: Cells, locations: Tensor, sigma: float
    ) -> dict[str, Tensor]:
        """Losses by name, of `states` (B, GRID * GRID, WIDTH) and `locations` (BINS, WIDTH)."""
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
            "shape": functional.cross_entropy(self.shape(inside), cells.shape),
        }


def answer_loss(logits: Tensor, batch: Batch, locations: slice, sigma: float) -> Tensor:
    """The mean loss of answer tokens; `logits` (B, T, vocabulary), `sigma` in location bins.

    A location counts as nearly right when it is near (a Gaussian over the bins), a word does not.
    """
    labels = batch.labels
    log_probs = logits.log_softmax(-1)
    is_location = (labels >= locations.start) & (labels < locations.stop)
    is_word = (labels != IGNORED) & ~is_location
    word_loss = functional.nll_loss(log_probs[is_word], labels[is_word], reduction="sum")
    target = _gaussians((labels[is_location] - locations.start).float(), sigma)
    location_loss = -(target * log_probs[is_location][:, locations]).sum()
    total_weight = WORD_WEIGHT * int(is_word.sum()) + int(is_location.sum())
    return (word_loss * WORD_WEIGHT + location_loss) / total_weight


def soft_location_loss(logits: Tensor, centre: Tensor, sigma: float) -> Tensor:
    """Cross-entropy of `logits` (..., BINS) against Gaussians at `centre` (...), in bins."""
    return -(_gaussians(centre, sigma) * logits.log_softmax(-1)).sum(-1)


def _gaussians(centre: Tensor, sigma: float) -> Tensor:
    """(..., BINS) probabilities around each centre (...)."""
    offset = (torch.arange(BINS) - centre[..., None]) / sigma
    return functional.softmax(-0.5 * offset**2, dim=-1)


def _distances(cells: Cells) -> Tensor:
    """(K, 4) from each cell's centre to the left, top, right and bottom of its object's box."""
    x = (cells.cell % GRID + 0.5) / GRID
    y = (cells.cell // GRID + 0.5) / GRID
    x1, y1, x2, y2 = cells.box.unbind(1)
    return torch.stack([x - x1, y - y1, x2 - x, y2 - y], dim=1)
