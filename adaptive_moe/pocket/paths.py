"""Where the pocket model's files lie inside the installed package."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent
FACT_SOURCES = ROOT / "facts"
FACTS_FILE = ROOT / "facts.jsonl"
PACKS = ROOT / "packs"
MODEL = ROOT / "model"
SMALLTALK_FILE = ROOT / "smalltalk.yaml"
ATTRIBUTES_FILE = ROOT / "attributes.yaml"
WORDINGS_FILE = ROOT / "wordings.yaml"
WORDS_FILE = ROOT / "words.txt"


def model_path() -> Path:
    """The folder that `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer` load."""
    return MODEL
