"""A file whose machines are tried without the cards that it asks for."""

from __future__ import annotations

from launcher.gpu.grants import gpu_devices_of
from launcher.infra.model import Profile
from launcher.trial.no_cards import without_cards
from tests.unit.gpu_host import gpu, infra, machine


def test_no_machine_wants_a_card_and_all_else_stays() -> None:
    disk = {"type": "disk", "path": "/data"}
    file = infra(
        machine("flag", gpu_memory=1 << 30, gpu_driver="host"),
        machine("named", pci="0000:01:00.0"),
        machine("device", devices={"card": gpu(pci="0000:02:00.0"), "data": disk}, config={"limits.cpu": "2"}),
        machine("profile", profiles=("default", "cards")),
        machine("none", gpu=False),
        profiles={"cards": Profile("cards", {"limits.cpu": "1"}, {"card": gpu(), "data": disk})},
    )
    bare = without_cards(file)
    domain = bare.domains["ai"]
    for entry in bare.machines():
        assert (entry.gpu, entry.gpu_devices, entry.gpu_memory, entry.gpu_driver) == (False, (), None, "auto")
        assert gpu_devices_of(entry, domain) == {}
    assert domain.machines["device"].devices == {"data": disk}
    assert domain.machines["device"].config == {"limits.cpu": "2"}
    assert domain.profiles["cards"] == Profile("cards", {"limits.cpu": "1"}, {"data": disk})
    assert domain.machines["none"] == file.domains["ai"].machines["none"]
