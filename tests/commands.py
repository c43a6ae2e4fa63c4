"""How tests start the commands: as processes of the checkout under test."""

import sys


def command(name: str) -> list[str]:
    """Returns the words that run a console script, whether or not it is installed.

    Args:
        name: of the script: "dmcnn-restore".
    """
    module = {"plot": "plots"}.get(part := name.removeprefix("dmcnn-"), part)
    code = f"import sys; from dmcnn_jax.cli.{module} import main; sys.exit(main())"
    return [sys.executable, "-c", code]
