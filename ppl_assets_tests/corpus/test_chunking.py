import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

from ppl_assets.corpus import chunking
from ppl_assets.corpus.chunking import Chunker, chunk_document
from ppl_assets.corpus.cleaning import normalize


def cut(tokenizer, text, size=8, shortest=1):
    (chunks,) = Chunker(tokenizer, "id", tokens=size, shortest=shortest).chunk_many([text])
    return chunks


@given(
    text=st.text(
        st.one_of(st.characters(codec="utf-8"), st.sampled_from("the fox \n\t\u4e2d\U0001f600\U0001f468\u200d")),
        max_size=80,
    ),
    size=st.integers(8, 20),
)
@settings(max_examples=100, deadline=None)
def test_chunks_joined_are_the_document_and_their_tokens_decode_to_their_text(tokenizer, text, size):
    text = normalize(text)
    chunks = cut(tokenizer, text, size)
    assert "".join(chunk.text for chunk in chunks) == text
    assert [chunk.position for chunk in chunks] == list(range(len(chunks)))
    for chunk in chunks:
        assert 1 <= len(chunk.tokens) <= size
        assert tokenizer.decode(chunk.tokens.tolist(), skip_special_tokens=False) == chunk.text
        assert chunk.n_bytes == len(chunk.text.encode())
        assert 1 <= chunk.first_token_bytes <= chunk.n_bytes


def test_tokens_are_slices_of_the_documents_own_encoding(tokenizer):
    text = "The quick fox jumps over the dog near line 3. The slow river feeds the lake near line 4."
    whole = Tokenizer.from_str(tokenizer.to_str())
    whole.no_truncation()
    expected = whole.encode(text).ids
    assert [token for chunk in cut(tokenizer, text) for token in chunk.tokens.tolist()] == expected


def test_special_token_strings_are_encoded_as_text(tokenizer):
    special = tokenizer.token_to_id("<|endoftext|>")
    assert special in Tokenizer.from_str(tokenizer.to_str()).encode("a<|endoftext|>").ids
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.add_special_tokens({"eos_token": "<|endoftext|>"})
    chunks = chunk_document("The fox <|endoftext|> the dog", fast, 64, 1)
    assert special not in chunks[0].tokens
    assert chunks[0].text == "The fox <|endoftext|> the dog"


def test_the_given_tokenizer_keeps_its_truncation(tokenizer):
    cut(tokenizer, "The fox")
    assert tokenizer.truncation["max_length"] == 5


def test_a_boundary_inside_a_character_moves_back_and_the_chunk_still_counts_as_full(tokenizer):
    text = "ab" + "\U0001f600" * 10  # 2 or 1 tokens, then 4 tokens an emoji
    chunks = cut(tokenizer, text, size=11, shortest=11)
    assert "".join(chunk.text for chunk in chunks) == text
    assert all("\ufffd" not in tokenizer.decode(chunk.tokens.tolist()) for chunk in chunks)
    assert {len(chunk.tokens) for chunk in chunks[:-1]} <= {8, 9, 10, 11}
    assert [chunk.is_kept for chunk in chunks] == [True] * (len(chunks) - 1) + [len(chunks[-1].tokens) == 11]
    assert chunks[1].first_token_bytes == 1


def test_a_character_longer_than_a_chunk_is_neither_cut_nor_kept_and_the_rest_goes_on():
    vocabulary = {"<unk>": 0, "a": 1, **{f"<0x{byte:02X}>": byte + 2 for byte in range(256)}}
    tiny = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    tiny.normalizer = normalizers.Replace("\u2460", "\U0001f600")  # one character becomes another of four bytes
    chunks = cut(tiny, "aa\U0001f600aa", size=2)
    assert [(chunk.text, len(chunk.tokens), chunk.is_kept) for chunk in chunks] == [
        ("aa", 2, True), ("\U0001f600", 4, False), ("aa", 2, True)
    ]  # fmt: skip
    assert chunks[1].first_token_bytes == 1


def test_only_full_chunks_are_kept_unless_a_shorter_length_is_asked_for(tokenizer):
    text = "The quick fox jumps over the dog near line 3."
    full = chunk_document(text, tokenizer, 8, 8)
    assert all(len(chunk.tokens) == 8 for chunk in full)
    assert len(chunk_document(text, tokenizer, 8, 1)) == len(full) + 1


def test_the_same_content_has_the_same_id_and_another_tokenizer_another(tokenizer):
    text = "The quick fox jumps over the dog."
    first, again, other = (chunk_document(text, tokenizer, 64, 1, name)[0].chunk_id for name in ("x", "x", "y"))
    assert first == again != other
    assert len(first) == 32


@pytest.mark.parametrize("separator", ["\n\n", "\n", " ", ""])
def test_a_long_document_is_encoded_in_pieces_that_lose_nothing(tokenizer, monkeypatch, separator):
    monkeypatch.setattr(chunking, "PIECE_CHARACTERS", 100)
    text = normalize(separator.join(["The quick fox jumps", "over\U0001f600the dog"] * 40))
    chunks = cut(tokenizer, text)
    assert "".join(chunk.text for chunk in chunks) == text
    assert [chunk.position for chunk in chunks] == list(range(len(chunks)))


def test_documents_are_never_joined(tokenizer):
    texts = ["The quick fox", "", "jumps over the dog", "x" * 50]
    documents = list(Chunker(tokenizer, "id", tokens=8, shortest=1).chunk_many(texts))
    assert ["".join(chunk.text for chunk in chunks) for chunks in documents] == texts
