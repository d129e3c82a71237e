"""What the documents show of the simulation exists."""

from __future__ import annotations

import shlex


def test_every_command_of_the_simulation_shown_parses(written, simulation):
    parsed = 0
    for document in written:
        for line in document.commands:
            if not line.startswith("python -m fastgpu_hub.simulate "):
                continue
            words = shlex.split(line, comments=True)[3:]
            command = simulation.commands.get(words[0])
            if command:
                command.make_context(words[0], words[1:])  # raises on an unknown option
            else:
                simulation.make_context("simulate", words)
            parsed += 1
    assert parsed >= 8
