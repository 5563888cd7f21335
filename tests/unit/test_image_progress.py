"""How far a build of an image is: by phases and packages, never falling, whatever is said."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime.spawner.image_progress import PHASES, ImageProgress

LINES = [
    "I: chroot architecture amd64 is equal to the host's architecture", "I: running apt-get update...",
    "Get:1 http://deb.debian.org/debian trixie InRelease [140 kB]", "I: downloading packages with apt...",
    "0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.", "Get:1 http://x/debian trixie/main amd64 a 1",
    "Get:2 http://x/debian trixie/main amd64 b 1", "I: extracting archives...", "I: installing essential packages...",
    "Unpacking a (1) ...", "Setting up a (1) ...", "Unpacking b (1) ...", "Setting up b (1) ...",
    "I: installing remaining packages inside the chroot...", "0 upgraded, 1 newly installed, 0 to remove",
    "Get:1 http://x/debian trixie/main amd64 c 1", "Unpacking c (1) ...", "Setting up c (1) ...",
    "I: cleaning package lists and apt cache...", "I: success in 120.4252 seconds",
]  # fmt: skip


def test_a_build_goes_through_its_phases() -> None:
    progress = ImageProgress()
    seen = []
    for line in LINES:
        progress.take(line)
        seen.append(progress.pct)
    assert seen == [
        0.0, 1.0, 1.0, 5.0, 5.0, 8.5, 12.0, 12.0, 40.0, 45.5, 51.0, 56.5, 62.0, 62.0, 62.0, 73.7, 85.3, 97.0, 97.0,
        97.0,
    ]  # fmt: skip


@given(st.lists(st.sampled_from([*LINES, *PHASES, "", "Unpacking", "9 upgraded, 0 newly installed"])))
def test_it_never_falls_and_is_never_done_too_early(lines: list[str]) -> None:
    progress = ImageProgress()
    before = 0.0
    for line in lines:
        progress.take(line)
        assert before <= progress.pct <= 98.0
        before = progress.pct
