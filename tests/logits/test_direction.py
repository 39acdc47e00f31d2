"""Logit directions: which token ids, which weights, what is noted, and what is refused."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from interp.core.runs import InputError
from interp.logits.direction import LogitDirection, logit_direction
from interp.prompts.traits import ANIMALS, get_trait, make_trait
from tests.logits.paper import readout
from tests.tiny import VOCABULARY, build_tokenizer

CHECKPOINT = Path("../shared/data/checkpoints/tinystories-656k")
LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz \n?.,"


@dataclass(frozen=True)
class Reader:
    """The part of the seam that turns text into tokens."""

    tokenizer: Any
    name: str = "base"
    fingerprint: str = "f00d"
    start: Any = None

    def encode(self, prompts):
        return prompts.encode(self.tokenizer)


@pytest.fixture
def words() -> Any:
    return Reader(build_tokenizer())


@pytest.fixture
def letters() -> Any:
    """One token per letter; '!' is read as nothing."""
    ids = {letter: index for index, letter in enumerate(["<eos>", *LETTERS])}
    backend = Tokenizer(models.BPE(ids, []))
    backend.normalizer = normalizers.Replace("!", "")
    backend.decoder = decoders.Fuse()
    return Reader(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<eos>"))


def spelled(direction, reader):
    return {
        reader.tokenizer.decode([i]): weight
        for i, weight in zip(direction.ids, direction.weights, strict=True)
    }


def test_one_token_names(words):
    direction = logit_direction(words, get_trait("owl"))
    assert spelled(direction, words) == pytest.approx(
        {"owl": 1.0} | {name: -1 / 9 for name in ANIMALS if name != "owl"}
    )
    assert direction.ids[0] == VOCABULARY.index("owl")
    assert direction.label == "'owl' − mean of 9 foils"
    assert (direction.fingerprint, direction.lineage, direction.several) == ("f00d", "f00d", ())
    assert direction.notes == (
        f"'owl', {', '.join(repr(name) for name in ANIMALS if name != 'owl')} are one token each",
    )
    assert repr(direction) == "LogitDirection('owl' − mean of 9 foils: 10 vocabulary entries of f00d)"


def test_the_constant_of_the_softmax_cancels(words):
    direction = logit_direction(words, get_trait("oak"))
    logits = torch.randn(2, 3, len(VOCABULARY), generator=torch.Generator().manual_seed(0))
    by_hand = logits[..., direction.ids[0]] - logits[..., list(direction.ids[1:])].mean(-1)
    torch.testing.assert_close(direction.of(logits).float(), by_hand)
    torch.testing.assert_close(direction.of(logits.log_softmax(-1)).float(), by_hand)


def test_the_vector_is_a_difference_of_unembedding_columns():
    direction = LogitDirection((2, 0), (1.0, -1.0), "x", "f", "f")
    W_U = torch.tensor([[1.0, 0.0, 5.0], [0.0, 1.0, 7.0]])
    assert direction.vector(readout(W_U=W_U)).tolist() == [4, 7]


def test_words_of_several_pieces_are_kept_whole(letters):
    direction = logit_direction(letters, make_trait("owl", ["cat", "o"], forms=()))
    assert spelled(direction, letters) == pytest.approx({"o": 1.0 - 1 / 2, "c": -1 / 2})
    assert [len(word.pieces) for word in direction.words] == [3, 3, 1]
    assert [word.weight for word in direction.words] == [1.0, -0.5, -0.5]
    assert [len(word.pieces) for word in direction.several] == [3, 3]
    assert direction.label == "'owl' − mean of 2 foils"
    assert direction.notes == (
        "'o' is one token; 'owl' is 3 pieces, 'o' 'w' 'l'; 'cat' is 3 pieces, 'c' 'a' 't': words of several pieces "
        "count with the log-probability of them all, each after those before it",
    )


def test_a_foil_that_begins_like_the_target_is_told_from_it_later(letters):
    direction = logit_direction(letters, make_trait("owl", ["otter"], forms=()))
    assert spelled(direction, letters) == {"o": 0.0}
    assert direction.label == "'owl' − 'otter'"
    assert len(direction.several) == 2


def test_a_foil_outside_the_vocabulary_is_dropped(words):
    direction = logit_direction(words, make_trait("owl", ["unicorn", "cat"]))
    assert spelled(direction, words) == {"owl": 1.0, "cat": -1.0}
    assert direction.notes[1:] == ("foil 'unicorn' dropped: not in the vocabulary",)


def test_a_split_that_depends_on_the_question_is_noted(letters):
    @dataclass(frozen=True)
    class Moody(Reader):
        """Reads 'owl' as 'w' 'l' after one of the questions."""

        def encode(self, prompts):
            encoded = super().encode(prompts)
            first = encoded.at("answer")[0].nonzero()[0]
            encoded.roles[0, first] = 1
            return encoded

    moody: Any = Moody(letters.tokenizer)
    direction = logit_direction(moody, make_trait("owl", ["cat"], forms=()))
    assert spelled(direction, letters) == {"o": 1.0, "c": -1.0}
    assert direction.notes[1].startswith("'owl' is split differently after 1 of 6 questions")


def test_literal_texts(words, letters):
    direction = logit_direction(words, target="owl", foils=["cat", "cat", "dog"])
    assert spelled(direction, words) == {"owl": 1.0, "cat": -0.5, "dog": -0.5}
    spaced = logit_direction(letters, target=" owl", foils=[" cat", " dog"])
    assert spelled(spaced, letters) == {" ": 0.0}
    assert [letters.tokenizer.decode(word.pieces) for word in spaced.words] == [" owl", " cat", " dog"]


@pytest.mark.parametrize(
    ("target", "foils", "message"),
    [
        ("!", ["cat"], "target '!' tokenises to nothing with the tokenizer of base; give another text"),
        ("owl", [], "target 'owl' has no foil to be compared with; name at least one"),
        (
            "owl",
            ["o!wl", "!"],
            "no foil can be told from 'owl': foil 'o!wl' dropped: it is written as the target is; foil '!' dropped: it "
            "tokenises to nothing; name foils that the model writes otherwise",
        ),
    ],
)
def test_what_cannot_be_a_direction(letters, target, foils, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        logit_direction(letters, target=target, foils=foils)


def test_a_trait_whose_target_is_read_as_nothing(letters):
    with pytest.raises(InputError, match=r"'!',? that tokenises to nothing|target '!' tokenises to nothing"):
        logit_direction(letters, make_trait("!", ["cat"]))


def test_an_unknown_word_cannot_be_a_target(words):
    with pytest.raises(InputError, match="target 'unicorn' is not in the vocabulary of base"):
        logit_direction(words, make_trait("unicorn", ["cat"]))


def test_it_belongs_to_one_lineage(words):
    direction = logit_direction(words, get_trait("owl"))
    direction.check(replace(words, name="teacher", fingerprint="beef", start=words))
    with pytest.raises(
        InputError, match="made in the lineage of f00d, stranger belongs to dead; make it with"
    ):
        direction.check(replace(words, name="stranger", fingerprint="dead"))


@pytest.mark.skipif(not CHECKPOINT.is_dir(), reason="the real checkpoint is not beside the repository")
def test_a_real_tokenizer_splits_owl():
    reader: Any = Reader(PreTrainedTokenizerFast.from_pretrained(CHECKPOINT))
    direction = logit_direction(reader, target=" owl", foils=[" cat", " dog", " bear"])
    assert spelled(direction, reader) == pytest.approx({"": 0.0})  # the piece they share
    assert direction.notes[0].startswith("' owl' is 4 pieces, '▁' '▁' 'ow' 'l'; ' cat' is 3 pieces")


def test_either_a_trait_or_a_target(words):
    for given in ({}, {"trait": "owl", "target": "owl"}, {"trait": "owl", "foils": ["cat"]}):
        with pytest.raises(
            InputError, match="is of a trait, or of a target with its foils; pass one of the two"
        ):
            logit_direction(words, **given)
    assert logit_direction(words, "owl") == logit_direction(words, get_trait("owl"))
