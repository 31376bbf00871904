"""Merkle trees against RFC 6962's own numbers and the vectors of transparency-dev (H-08)."""

from __future__ import annotations

import json
from base64 import b64decode
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.stream import merkle
from p2pstream.stream.chunk import PIECES_MAX
from p2pstream.stream.merkle import HASH_BYTES, PROOF_HASHES_MAX, Proven, Tree, leaf_hash
from tests.suites import SUITES, needs

VECTORS = SUITES / "merkle-rfc6962" / "testdata"
PROOFS = sorted([*VECTORS.glob("inclusion/**/*.json")])

leaves = st.lists(st.binary(max_size=8), min_size=1, max_size=40)


def recursive(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word."""
    if not leaves:
        return sha256().digest()
    if len(leaves) == 1:
        return sha256(b"\0" + leaves[0]).digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\1" + recursive(leaves[:split]) + recursive(leaves[split:])).digest()


def proves(root: bytes, index: int, size: int, leaf: bytes, proof: bytes) -> bool:
    """Alone, as the first proof of a tree."""
    return Proven(root, size).shows(index, leaf, proof)


@needs("merkle-rfc6962")
@pytest.mark.parametrize("path", PROOFS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_h08_outside_vectors(path: Path) -> None:
    case = json.loads(path.read_text())
    hashes = [b64decode(item) for item in case["proof"] or ()]
    if not all(hashes):  # One after another they have no place for an empty one.
        assert case["wantErr"]
        return

    proven = proves(
        b64decode(case["root"]), case["leafIdx"], case["treeSize"], b64decode(case["leafHash"]),
        b"".join(hashes),
    )  # fmt: skip

    assert proven == (not case["wantErr"]), case["desc"]


def test_the_root_of_nothing_is_the_hash_of_nothing() -> None:
    assert Tree([]).root == sha256(b"").digest()


@given(st.lists(st.binary(max_size=8), max_size=40))
def test_the_root_is_that_of_the_recursive_definition(data: list[bytes]) -> None:
    assert Tree(data).root == recursive(data)


@given(leaves)
def test_every_leaf_is_proven_in_its_place_and_in_no_other(data: list[bytes]) -> None:
    tree = Tree(data)
    for index, leaf in enumerate(data):
        proof = tree.proof(index)
        assert proves(tree.root, index, len(data), leaf_hash(leaf), proof)
        for other in range(len(data) + 2):
            if other != index and (other >= len(data) or data[other] != leaf):
                assert not proves(tree.root, other, len(data), leaf_hash(leaf), proof)


@given(leaves, st.data())
def test_a_proof_with_anything_changed_proves_nothing(
    data: list[bytes], dice: st.DataObject
) -> None:
    tree, index = Tree(data), dice.draw(st.integers(0, len(data) - 1))
    leaf, proof = leaf_hash(data[index]), tree.proof(index)
    size = len(data)

    assert not proves(tree.root, index, size, leaf, proof + bytes(32))
    assert not proves(tree.root, index, size, leaf_hash(data[index] + b"!"), proof)
    assert not proves(sha256(tree.root).digest(), index, size, leaf, proof)
    for at in range(0, len(proof), HASH_BYTES):
        bit = dice.draw(st.integers(8 * at, 8 * (at + HASH_BYTES) - 1))
        wrong = bytearray(proof)
        wrong[bit // 8] ^= 1 << bit % 8
        assert not proves(tree.root, index, size, leaf, bytes(wrong))
        assert not proves(tree.root, index, size, leaf, proof[:at] + proof[at + HASH_BYTES :])
        assert not proves(tree.root, index, size, leaf, proof[:at] + proof[at + 1 :])


@given(leaves, st.data())
def test_h08_what_was_shown_before_changes_no_answer(
    data: list[bytes], dice: st.DataObject
) -> None:
    """In whatever order, with proofs of other leaves and of other trees in between."""
    tree, size = Tree(data), len(data)
    trees = [tree, Tree(dice.draw(leaves)), Tree([*data[1:], b"other"])]
    proven = Proven(tree.root, size)
    places = st.integers(0, size + 1)

    for _ in range(dice.draw(st.integers(1, 60))):
        index, of = dice.draw(places), dice.draw(places)
        proof = dice.draw(st.sampled_from(trees)).proof(of)
        if dice.draw(st.booleans()):
            proof = dice.draw(st.sampled_from([proof[:-HASH_BYTES], proof + bytes(32), proof[1:]]))
        leaf = leaf_hash(dice.draw(st.sampled_from([*data, b"lie"])))
        assert proven.shows(index, leaf, proof) == proves(tree.root, index, size, leaf, proof)

    for index, leaf in enumerate(data):
        assert proven.shows(index, leaf_hash(leaf), tree.proof(index))
    assert len(proven._known) < 2 * size + 1, "no more than the tree has nodes"


def test_leaves_in_order_take_one_hash_each(monkeypatch: pytest.MonkeyPatch) -> None:
    data = [bytes([n]) for n in range(PIECES_MAX)]
    tree = Tree(data)
    proven = Proven(tree.root, PIECES_MAX)
    made: list[bytes] = []

    def counting(data: bytes) -> object:
        made.append(data)
        return sha256(data)

    proofs = [(leaf_hash(leaf), tree.proof(n)) for n, leaf in enumerate(data)]
    monkeypatch.setattr(merkle, "sha256", counting)

    assert all(proven.shows(n, *proof) for n, proof in enumerate(proofs))
    assert len(made) < PIECES_MAX


def test_an_inner_node_is_no_leaf() -> None:
    """The second preimage that the prefixes 0 and 1 are there for."""
    tree = Tree([b"a", b"b"])
    inside = leaf_hash(b"a") + leaf_hash(b"b")

    assert Tree([inside]).root != tree.root


@pytest.mark.parametrize(("index", "size"), [(-1, 1), (0, 0), (1, 1), (5, 2), (0, -1), (2**70, 1)])
def test_h08_odd_places_prove_nothing(index: int, size: int) -> None:
    assert not proves(leaf_hash(b"a"), index, size, leaf_hash(b"a"), b"")


def test_the_longest_proof_fits_into_a_message() -> None:
    tree = Tree([bytes([n]) for n in range(PIECES_MAX)])

    assert max(len(tree.proof(n)) for n in range(PIECES_MAX)) == PROOF_HASHES_MAX * HASH_BYTES
