"""The arithmetic of interventions: router logits as they are steered, and the experts that are chosen. Torch only.

r rows are tokens of one layer of E experts. Formulas and sources stand in `moetrace.store.intervention`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from moetrace.store.intervention import EPSILON

if TYPE_CHECKING:
    from moetrace.tracer.model.families import RoutingRule


@dataclass(frozen=True)
class RowEffects:
    """What is done to r rows of a layer; None where nothing of the kind is.

    - soft, scale: float32 [r, E], factors of std(z) and of |z|
    - forced: int8 [r, E], 1 promoted, -1 suppressed, 0 neither
    """

    soft: torch.Tensor | None
    scale: torch.Tensor | None
    forced: torch.Tensor | None


def steered_logits(logits: torch.Tensor, effects: RowEffects) -> torch.Tensor:
    """Return router logits [r, E] as they are steered, float32: the model's own are shifted, then some forced."""
    own = logits.float()
    steered = own
    if effects.soft is not None:
        steered = steered + effects.soft * own.std(dim=-1, correction=0, keepdim=True)
    if effects.scale is not None:
        steered = steered + effects.scale * own.abs()
    if effects.forced is not None:
        highest = steered.amax(dim=-1, keepdim=True) + EPSILON
        lowest = steered.amin(dim=-1, keepdim=True) - EPSILON
        steered = torch.where(effects.forced > 0, highest, steered)
        steered = torch.where(effects.forced < 0, lowest, steered)
    return steered


def chooses_by_logits(rule: RoutingRule) -> bool:
    """Tell whether the experts with the highest logits are chosen: no bias is added, and no groups are chosen first."""
    return not rule.selection_bias and rule.groups == 1


def forced_choice(
    logits: torch.Tensor, bias: torch.Tensor | None, forced: torch.Tensor, rule: RoutingRule, top_k: int
) -> torch.Tensor:
    """Return the experts [r, k] that a router with a selection bias or groups chooses where some are forced.

    logits: as steered, float32 [r, E]; bias: [E]. A promoted expert's score for the choice is above all others, and its
    group is kept before any other; a suppressed one's is below all others. All else is as the model has it.
    """
    scores = torch.softmax(logits, dim=-1) if rule.scoring == "softmax" else torch.sigmoid(logits)
    choice = scores if bias is None else scores + bias.float()
    choice = torch.where(forced > 0, choice.amax(dim=-1, keepdim=True) + 1, choice)
    choice = torch.where(forced < 0, choice.amin(dim=-1, keepdim=True) - 1, choice)
    if rule.groups > 1:
        grouped = choice.view(len(choice), rule.groups, -1)
        rank = grouped.topk(2, dim=-1).values.sum(dim=-1) if rule.group_score == "top2" else grouped.amax(dim=-1)
        rank = rank.masked_fill((forced > 0).view(grouped.shape).any(dim=-1), torch.inf)
        kept = torch.zeros_like(rank, dtype=torch.bool)
        kept.scatter_(-1, rank.topk(rule.groups_kept, dim=-1).indices, value=True)
        choice = torch.where(kept.unsqueeze(-1), grouped, -torch.inf).flatten(-2)
    return choice.topk(top_k, dim=-1).indices


def weights_of_choice(
    logits: torch.Tensor, chosen: torch.Tensor, own: torch.Tensor, own_weights: torch.Tensor, rule: RoutingRule
) -> torch.Tensor:
    """Return the gate weights [r, k] of chosen experts by the model's rule, on the scale of the router's own.

    logits: as steered; own, own_weights: [r, k], what the model's router chose from these logits, and how it weighed
    that, which tells the factor that it applies.
    """
    scores = torch.softmax(logits, dim=-1) if rule.scoring == "softmax" else torch.sigmoid(logits)
    mine = scores.gather(-1, chosen)
    of_own = mine if rule.normalized else scores.gather(-1, own.long())
    factor = own_weights.float().sum(dim=-1, keepdim=True) / of_own.sum(dim=-1, keepdim=True)
    return mine * factor
