"""The ways in which any fact of the form "the R of S" may be asked, as whole question forms."""

from pathlib import Path

import yaml

_BY_KIND: dict[str, list[str]] = yaml.safe_load(
    Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
)

FORMS = tuple(_BY_KIND["related"])
BARE_FORMS = tuple(_BY_KIND["bare"])
ASSOCIATED_FORMS = tuple(_BY_KIND["associated"])
DEFINITION_FORMS = tuple(_BY_KIND["definition"])
