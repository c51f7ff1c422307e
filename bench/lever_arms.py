"""Arms of (d), one for each lever: the same engine on the same weights, laid out and called as the levers have it."""

from __future__ import annotations

from bot.engine.devices import Device
from bot.engine.lanes.levers import AUTO, NONE, Levers
from bot.engine.lanes.networks import Network, arrange, levers_for
from bot.engine.memory.residents import Loaded

ON_A_CPU = (NONE, "fused")
ON_CUDA = (NONE, "fused", "cudnn", "graphs", "compile", "compile,graphs")


class LeverArms:
    """Puts a loaded model under other levers and back. Not timed: laying out weights is done once, when a model is loaded."""

    def __init__(self, loaded: Loaded, device: Device) -> None:
        assert loaded.family is not None
        self._loaded = loaded
        self._device = device
        self._networks: dict[Levers, Network] = {}
        self.auto = self._levers(AUTO)

    def all(self, cuda: bool) -> dict[str, Levers]:
        """Name the arms: what is on by itself is left out, and so is what this model or machine cannot do.

        Each is on top of `auto`, but for none.
        """
        arms: dict[str, Levers] = {}
        for name in ON_CUDA if cuda else ON_A_CPU:
            levers = self._levers(name if name == NONE or self.auto == Levers() else f"{self.auto},{name}")
            if levers not in (self.auto, *arms.values()):
                arms[str(levers)] = levers
        return arms

    def use(self, levers: Levers) -> None:
        """Let the engine draw with these levers from here on."""
        assert self._loaded.family is not None
        arrange(self._loaded.pipe, levers)
        if levers not in self._networks:
            self._networks[levers] = Network(self._loaded.family, levers)
        self._loaded.network = self._networks[levers]

    def left_out(self, levers: Levers) -> str:
        """Name what was asked for and failed here; the log has said why."""
        network = self._networks.get(levers)
        return (
            "" if network is None or network.active == levers else f" (in truth {network.active}: the rest failed here)"
        )

    def _levers(self, asked: str) -> Levers:
        return levers_for(self._loaded.pipe, asked, self._device.torch_device, whole=self._loaded.whole).levers
