"""The checked-in interface definition and its compiled form agree."""

import re
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from arn_purify.service.gateway.protocols import v2_grpc

FOLDER = Path(v2_grpc.__file__).parent
SCALARS = {
    "double": 1,
    "float": 2,
    "int64": 3,
    "uint64": 4,
    "int32": 5,
    "bool": 8,
    "string": 9,
    "bytes": 12,
    "uint32": 13,
}
FIELD = re.compile(r"(repeated )?(map<string, (\w+)>|\w+) (\w+) = (\d+);")


def written():
    """(message, field) -> (number, type, repeated) as the text says it."""
    found, messages = {}, []
    for line in (FOLDER / "open_inference.proto").read_text().splitlines():
        line = line.partition("//")[0].strip()
        if line.startswith(("message ", "oneof ", "service ")):
            messages.append(line.split()[1] if line.startswith("message ") else "")
        elif line == "}":
            messages.pop()
        elif field := FIELD.fullmatch(line):
            repeated, kind, of_map, name, number = field.groups()
            owner = ".".join(filter(None, messages))
            found[owner, name] = (int(number), of_map or kind, bool(repeated or of_map))
    return found


def compiled():
    (file,) = descriptor_pb2.FileDescriptorSet.FromString((FOLDER / "open_inference.binpb").read_bytes()).file
    found = {}

    def walk(message, owner):
        entries = {nested.name: nested for nested in message.nested_type if nested.options.map_entry}
        for field in message.field:
            kind = field.type_name.rpartition(".")[2]
            kind = entries[kind].field[1].type_name.rpartition(".")[2] if kind in entries else kind
            found[owner, field.name] = (field.number, kind or field.type, field.label == field.LABEL_REPEATED)
        for nested in message.nested_type:
            if not nested.options.map_entry:
                walk(nested, f"{owner}.{nested.name}")

    for message in file.message_type:
        walk(message, message.name)
    return found


def test_every_field_has_the_number_and_type_that_the_text_says():
    expected = {key: (number, SCALARS.get(kind, kind), many) for key, (number, kind, many) in written().items()}
    assert len(expected) == 38
    assert compiled() == expected


def test_the_descriptor_set_is_what_protoc_makes_of_the_text(tmp_path):
    protoc = pytest.importorskip("grpc_tools.protoc")
    made = tmp_path / "made.binpb"
    assert not protoc.main(["protoc", f"-I{FOLDER}", f"--descriptor_set_out={made}", "open_inference.proto"])
    assert made.read_bytes() == (FOLDER / "open_inference.binpb").read_bytes()
