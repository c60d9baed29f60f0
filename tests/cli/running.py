"""Runs the program in this process, as a person at the terminal would."""

from typer.testing import CliRunner, Result

from adaptive_moe.cli.main import app


def run(*words: object, stdin: str = "") -> Result:
    """The program's exit code, stdout and stderr."""
    return CliRunner().invoke(app, [str(word) for word in words], input=stdin)
