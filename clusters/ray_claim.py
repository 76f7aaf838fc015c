"""What a job holds of a Ray cluster: one placement group, an actor in each of its bundles."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from clusters.placement import NODE_LABEL
from clusters.ray_outpost import Outpost

_PLACED_S = 15.0  # what was free a moment ago is; Ray needs a moment to see what was given back
_ACTOR_S = 600.0  # a node may have to install what a Ray job asks for


class ClaimError(Exception):
    """The cluster does not give what it seemed to have; a sentence.

    ``no_room``: whether it may later.
    """

    def __init__(self, text: str, *, no_room: bool = False) -> None:
        super().__init__(text)
        self.no_room = no_room


class Claim:
    """``bundles``: resources by name, one for every worker; ``nodes``: the id of the node of each.

    ``strategy`` is Ray's PACK, SPREAD, STRICT_PACK or STRICT_SPREAD.
    """

    def __init__(self, bundles: list[dict[str, float]], nodes: list[str], strategy: str) -> None:
        from ray.util.placement_group import placement_group

        self._bundles, self._nodes = bundles, nodes
        self.actors: list[Any] = []
        self._group = placement_group(
            bundles,
            strategy=strategy,
            bundle_label_selector=[{NODE_LABEL: node} for node in nodes],
        )

    async def places(self) -> list[dict[str, Any]]:
        """What each worker's actor says of its place. Raises ClaimError."""
        placed = await asyncio.to_thread(self._group.wait, _PLACED_S)
        if not placed:
            self.release()
            raise ClaimError(
                f"what was free is not to be had after {_PLACED_S:.0f} s: somebody else has taken "
                "it, or a node is gone; try again, or wait with --wait",
                no_room=True,
            )
        self.actors = [self._actor(index) for index in range(len(self._bundles))]
        asked = [actor.about.remote() for actor in self.actors]
        try:
            answers = [asyncio.wrap_future(ref.future()) for ref in asked]
            return list(await asyncio.wait_for(asyncio.gather(*answers), _ACTOR_S))
        except asyncio.TimeoutError:
            self.release()
            raise ClaimError(
                f"an actor has not come up within {_ACTOR_S:.0f} s; its node may still install "
                "what the Ray job's runtime environment asks for"
            ) from None
        except BaseException:
            self.release()
            raise

    async def ask(self, module: str, arguments: list[str]) -> list[dict[str, Any]]:
        """What ``python -m module`` prints on each node: its id, and ``out`` or ``error``."""
        first = dict(zip(reversed(self._nodes), reversed(self.actors), strict=True))
        answers = [actor.ask.remote(module, arguments) for actor in first.values()]
        told = await asyncio.gather(*(asyncio.wrap_future(ref.future()) for ref in answers))
        return [{"node": node, **answer} for node, answer in zip(first, told, strict=True)]

    def release(self) -> None:
        """Gives everything back; workers that still run end with their actors."""
        import ray
        from ray.util.placement_group import remove_placement_group

        for actor in self.actors:
            with suppress(Exception):  # whatever is gone with its node
                ray.kill(actor)
        self.actors = []
        with suppress(Exception):
            remove_placement_group(self._group)

    def _actor(self, index: int) -> Any:
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        bundle = dict(self._bundles[index])
        where = PlacementGroupSchedulingStrategy(
            placement_group=self._group, placement_group_bundle_index=index
        )
        options = {"num_cpus": bundle.pop("CPU", 0), "num_gpus": bundle.pop("GPU", 0)}
        return (
            ray.remote(Outpost)
            .options(scheduling_strategy=where, resources=bundle, **options)
            .remote()
        )
