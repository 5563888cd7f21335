"""The systemd unit as text: what is in it for a platform, and that settings cannot break out of their line.

Not here: systemd itself.
"""

from __future__ import annotations

import pytest

from quilt_fn.errors import InvalidValue
from quilt_fn.settings import Settings
from runtime import service


def test_the_unit_has_every_setting_that_is_set() -> None:
    settings = Settings(state_dir="/srv/quilt", port=9000)
    text = service.unit_text(
        settings, {"QUILT_PORT": "9000", "QUILT_STATE_DIR": "relative", "HOME": "/root"}, "/opt/python"
    )
    assert 'ExecStart="/opt/python" "-P" "-m" "runtime.supervisor" "up"\n' in text
    assert 'Environment="QUILT_PORT=9000"\n' in text
    assert 'Environment="QUILT_STATE_DIR=/srv/quilt"\n' in text
    assert "HOME" not in text
    assert "\nDelegate=yes\n" in text
    assert "\nWantedBy=multi-user.target\n" in text


def test_values_are_quoted() -> None:
    assert service.quoted('a "b" 50% \\') == '"a \\"b\\" 50%% \\\\"'
    with pytest.raises(InvalidValue, match="QUILT_USER"):
        service.quoted("QUILT_USER=a\nExecStart=/bin/sh")


def test_platforms_have_units_of_their_own() -> None:
    names = {service.unit_name(Settings(state_dir=folder)) for folder in ("/var/lib/quilt", "/srv/one", "/srv/two")}
    assert len(names) == 3
    assert "quilt.service" in names


def test_what_is_said_to_people() -> None:
    assert "systemd does not run here" in service.sentence({"unit": "u", "enabled": False})
    assert "after each boot" in service.sentence({"unit": "u", "enabled": True})
    assert service.sentence({"unit": "u", "installed": False}) == "u is not installed."
