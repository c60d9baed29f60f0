"""Broken files of formats that libraries read: whatever is wrong, it is our error with the name."""

import random
import zlib

import pyarrow as pa
import pytest
from pyarrow import parquet

from adaptive_moe.errors import AdaptiveMoEError, DataError
from adaptive_moe.training.material import read_material

PAGE = zlib.compress(b"BT /F1 12 Tf 20 100 Td (The harbour of Tarvik has nine piers.) Tj ET")
AES = (
    b"<< /Filter /Standard /V 5 /R 6 /Length 256 /P -4 /O <%(hash)s> /U <%(hash)s> /OE <%(key)s> "
    b"/UE <%(key)s> /Perms <%(perms)s> /StmF /StdCF /StrF /StdCF "
    b"/CF << /StdCF << /CFM /AESV3 /AuthEvent /DocOpen /Length 32 >> >> >>"
) % {b"hash": b"41" * 48, b"key": b"41" * 32, b"perms": b"41" * 16}


def write_pdf(path, *, encryption=b"null"):
    """One page of text, laid out by hand."""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 200] /Contents 4 0 R /Resources 7 0 R >>",
        b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(PAGE), PAGE),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
        encryption,
        b"<< /Font << /F1 5 0 R >> >>",
    ]
    content, places = b"%PDF-1.7\n", []
    for number, each in enumerate(objects, start=1):
        places.append(len(content))
        content += b"%d 0 obj\n%s\nendobj\n" % (number, each)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    trailer = b"<< /Size 8 /Root 1 0 R /ID [<00> <00>] /Encrypt 6 0 R >>"
    if encryption == b"null":
        trailer = trailer.replace(b" /Encrypt 6 0 R", b"")
    start = len(content)
    content += b"xref\n0 8\n0000000000 65535 f \n" + table
    path.write_bytes(content + b"trailer\n%s\nstartxref\n%d\n%%%%EOF\n" % (trailer, start))


def write_parquet(path):
    rows = [
        {"prompt": f"How many piers has quay {i}?", "completion": "n\u00ede" * i} for i in range(9)
    ]
    parquet.write_table(pa.Table.from_pylist(rows), path, compression="none")


def mutated(content, chance):
    """The bytes with a few of them changed, or a piece doubled, or a piece missing."""
    kind = chance.randrange(3)
    start = chance.randrange(len(content))
    end = min(len(content), start + chance.randrange(1, 40))
    if kind == 0:
        changed = bytearray(content)
        for _ in range(chance.randrange(1, 9)):
            changed[chance.randrange(len(content))] = chance.randrange(256)
        return bytes(changed)
    return content[:end] + content[start if kind == 1 else end + 1 :]


@pytest.mark.parametrize(("suffix", "write"), [("pdf", write_pdf), ("parquet", write_parquet)])
def test_a_mutated_file_is_read_or_refused_by_name(tmp_path, suffix, write):
    path = tmp_path / f"whole.{suffix}"
    write(path)
    whole = read_material([path])
    assert whole.rows or whole.passages
    chance = random.Random(3)  # noqa: S311  not for security
    refused = 0
    for number in range(60):
        broken = tmp_path / f"broken{number}.{suffix}"
        broken.write_bytes(mutated(path.read_bytes(), chance))
        try:
            read_material([broken])
        except AdaptiveMoEError as error:
            assert broken.name in str(error)  # noqa: PT017  either outcome is right
            refused += 1
    assert refused


def test_an_encrypted_pdf_is_refused_with_a_way_out(tmp_path):
    write_pdf(tmp_path / "locked.pdf", encryption=AES)
    with pytest.raises(DataError, match=r"locked\.pdf: not a readable PDF .*without encryption"):
        read_material([tmp_path / "locked.pdf"])
