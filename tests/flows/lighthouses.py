"""Material that no model can know, and settings for a quick training on it."""

from adaptive_moe.config.loading import load_settings

ISLES = {
    "Tarvik": "Olen", "Morrow": "Hest", "Quillon": "Brann", "Sedge": "Ilva", "Peldrin": "Korr",
    "Ostrava Rock": "Menna", "Fellgard": "Jori", "Wickham Head": "Sunna", "Arlo Point": "Dagny",
    "Brimhold": "Torvi", "Cairnmouth": "Petra", "Dunskerry": "Yrsa", "Eskholm": "Leif",
    "Farrowness": "Astrid", "Grimsound": "Bo", "Harrowby": "Signe",
}  # fmt: skip
"""Lighthouses and their keepers: invented here, so that no model can know them."""


def write_material(folder, *, count=16):
    """A file about the first `count` lighthouses, in a new folder."""
    rows = list(ISLES.items())[:count]
    table = "\n".join(f"| {light} | {keeper} |" for light, keeper in rows)
    folder.mkdir()
    (folder / "lighthouses.md").write_text(
        "# Lighthouses\n\nEvery lighthouse has a keeper, the person who tends the lamp.\n\n"
        f"| Lighthouse | Keeper |\n|---|---|\n{table}\n"
    )
    return folder


def settings(tmp_path, *overrides):
    """A short training, and a gate that asks little and so has to allow for more."""
    quick = [
        "training.max_steps=160",
        "training.evaluate_every=40",
        "training.guard_prompts=80",
        "training.batch_size=16",
        "training.max_guard_loss=0.05",
        "training.worker=thread",
    ]
    return load_settings(overrides=[f"store={tmp_path / 'store'}", *quick, *overrides])
