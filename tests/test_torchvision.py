"""The families once more beside torchvision, whose processors some of them need and others prefer.

No build of torchvision belongs to a CPU build of torch everywhere. The registry's needs operators, of which resizing
uses none: they are declared, and its transforms, which are Python, work. That is enough for this test and nothing else.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
import torch

TESTS = Path(__file__).parent
DECLARING = dedent("""
    import re, sys
    import torch

    library = torch.library.Library("torchvision", "DEF")
    while True:
        try:
            import torchvision
            break
        except RuntimeError as error:
            (name,) = re.findall(r"operator torchvision::(\\w+) does not exist", str(error))
            library.define(f"{name}(Tensor x) -> Tensor")
            for module in [one for one in sys.modules if one.startswith("torchvision")]:
                del sys.modules[module]

    import pytest
    sys.exit(pytest.main(sys.argv[1:]))
""")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_family_keeps_the_contract_beside_torchvision(tmp_path: Path) -> None:
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    assert major == 2
    wanted = [f"torchvision==0.{minor + 15}.*", "num2words", "docopt"]
    pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--target", str(tmp_path / "packages")]
    subprocess.run([*pip, *wanted], check=True)
    runner = tmp_path / "runner.py"
    runner.write_text(DECLARING)
    done = subprocess.run(
        [sys.executable, str(runner), "-rs", "-p", "no:cacheprovider", str(TESTS / "test_families.py")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "packages"), str(TESTS)])},
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "its processor needs" not in done.stdout
