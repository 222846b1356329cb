"""Makes the fixtures of the tokenizer tests with the `tokenizers` library, which is the reference.

Usage: make_fixtures.py [NAME=MODEL_DIR ...]

Writes into the folder of this script:
  strings.jsonl            the strings (sample_strings.py); a line is "text", {"hex": bytes} where it is not UTF-8, or
                           {"text": unit, "times": n}
  synthetic/NAME/          small tokenizers, trained here, that cover each component; one that is there already is kept,
                           because training does not give the same tokens twice
  golden/NAME.json         what the library makes of the strings, for each synthetic tokenizer and each NAME=MODEL_DIR (real
                           tokenizers, which are not copied): ids of the first strings in full, and for all of them one FNV-1a
                           hash (32 bits, 8 hex digits) each of the ids, of the ids with special tokens left as text, and
                           of the decoded text; and texts of random ids
Needs tokenizers 0.23.
"""
import json
import pathlib
import random
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import sample_strings

HERE = pathlib.Path(__file__).parent
NUM_IN_FULL = 200
GPT2_LETTERS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
O200K = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
KIMI = "|".join([
    r"[\p{Han}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
CL100K = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
DEEPSEEK3 = [r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+",
             r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""]
DEEPSEEK2 = [r"[\r\n]", r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿΑ-ΡΣ-ώА-ҁ𐐀-𐑏]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", r"[一-龥ࠀ-一가-퟿]+"]


def corpus():
    texts = sample_strings.LANGUAGES * 3 + sample_strings.CODE * 3 + [" ".join(sample_strings.WORDS)] * 3
    return texts + [" ".join(sample_strings.NUMBERS), "  \n\n" * 30, "    " * 30, "\u0301\u0316" * 10]


def train(tokenizer, size, alphabet=(), special=()):
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=list(special), initial_alphabet=list(alphabet), min_frequency=1,
                                  limit_alphabet=300, max_token_length=12, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)


def byte_level(pre, size=600, special=("<|endoftext|>",), normalizer=None):
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    train(tokenizer, size, pre_tokenizers.ByteLevel.alphabet(), special)
    return tokenizer


def split_then_bytes(*patterns):
    steps = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    return pre_tokenizers.Sequence(steps + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def gpt2():
    return byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))


def gpt2_prefix_space():
    return byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True))


def qwen():
    return byte_level(split_then_bytes(QWEN), special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"), normalizer=normalizers.NFC())


def llama3():
    tokenizer = byte_level(split_then_bytes(LLAMA3), special=("<|begin_of_text|>", "<|eot_id|>"))
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin_of_text|>:0 $A:0", special_tokens=[("<|begin_of_text|>", 0)])])
    spec = json.loads(tokenizer.to_str())
    spec["model"]["ignore_merges"] = True
    for word in ("Ġstrawberry", "ĠcamelCaseWord", "Hello", "ĠåĦ¿"):  # in the vocabulary, but out of reach of merges
        spec["model"]["vocab"].setdefault(word, len(spec["model"]["vocab"]))
    return Tokenizer.from_str(json.dumps(spec))


def deepseek3():
    tokenizer = byte_level(split_then_bytes(*DEEPSEEK3), special=("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
                           normalizer=normalizers.Sequence([]))
    tokenizer.add_tokens([AddedToken("<｜User｜>", normalized=True, special=False)])
    return tokenizer


def granite():
    return byte_level(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False)]))


def sentencepiece(size, byte_fallback, unk="<unk>", fuse_unk=False):
    """Trained on words that begin with U+2581, as SentencePiece makes them."""
    special = [unk, "<s>", "</s>"] + ([f"<0x{b:02X}>" for b in range(256)] if byte_fallback else [])
    tokenizer = Tokenizer(models.BPE(unk_token=unk, fuse_unk=fuse_unk, byte_fallback=byte_fallback))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    train(tokenizer, size, special=special)
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = spec["added_tokens"][:3]
    spec["pre_tokenizer"] = None
    return spec


def llama_decoder():
    return {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
                                              {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}


def bos_template():
    return {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}


def llama2():
    spec = sentencepiece(750, byte_fallback=True, fuse_unk=True)
    spec["normalizer"] = {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
    spec["decoder"] = llama_decoder()
    spec["post_processor"] = bos_template()
    return Tokenizer.from_str(json.dumps(spec))


def mixtral_v3():
    spec = sentencepiece(700, byte_fallback=True)
    spec["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    spec["decoder"] = llama_decoder()
    spec["post_processor"] = bos_template()
    return Tokenizer.from_str(json.dumps(spec))


def metaspace(pre, decoder, **options):
    spec = sentencepiece(450, byte_fallback=False, **options)
    spec["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁"} | pre
    spec["decoder"] = {"type": "Metaspace", "replacement": "▁"} | decoder
    return spec


def metaspace_first():
    return Tokenizer.from_str(json.dumps(metaspace({"prepend_scheme": "first", "split": True},
                                                   {"prepend_scheme": "first", "split": True})))


def metaspace_never():
    return Tokenizer.from_str(json.dumps(metaspace({"prepend_scheme": "never", "split": False},
                                                   {"prepend_scheme": "never", "split": False}, fuse_unk=True)))


def metaspace_old():
    """The old spelling; returned as text because the library would write the new one."""
    return json.dumps(metaspace({"add_prefix_space": True, "str_rep": "▁"}, {"add_prefix_space": True, "str_rep": "▁"}))


def characters_model(size=500):
    """A model trained on whole texts, so that its tokens cross every border that a pre-tokenizer may set."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    train(tokenizer, size, special=("<unk>",))
    return tokenizer


def normalizing():
    tokenizer = characters_model()
    tokenizer.normalizer = normalizers.Sequence([
        normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(), normalizers.Replace(Regex(r"\s{2,}|[\x00-\x1f]"), " "),
        normalizers.NFKC(), normalizers.Replace("the", "THE"), normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def splitting_1():
    tokenizer = characters_model()
    tokenizer.normalizer = normalizers.NFD()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.Digits(individual_digits=False),
        pre_tokenizers.Split("e", "merged_with_previous"), pre_tokenizers.Split(Regex("[aou]"), "merged_with_next")])
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def splitting_2():
    tokenizer = characters_model()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Punctuation(), pre_tokenizers.Split(Regex(r"\w+"), "removed", invert=True),
        pre_tokenizers.Split(Regex(r"[A-Z]|(?<=l)l|\d{2}"), "contiguous"), pre_tokenizers.Split("in", "isolated", invert=True)])
    tokenizer.decoder = decoders.Sequence([decoders.Replace(Regex("[aeiou]"), "*"), decoders.Strip("t", 1, 0)])
    return tokenizer


def added_tokens():
    tokenizer = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), normalizer=normalizers.Sequence(
        [normalizers.NFC(), normalizers.Lowercase()]))
    tokenizer.add_tokens([
        AddedToken("word", single_word=True, normalized=False), AddedToken("<l>", lstrip=True, normalized=False),
        AddedToken("<r>", rstrip=True, normalized=False), AddedToken("<lr>", lstrip=True, rstrip=True, normalized=False),
        AddedToken("Norm Token", normalized=True), AddedToken("ÅNGSTRÖM", normalized=True, single_word=True),
        AddedToken("<a>", normalized=False), AddedToken("<a><b>", normalized=False), AddedToken("[INST]", normalized=True, rstrip=True)])
    tokenizer.add_tokens([AddedToken(" " * n, normalized=True) for n in range(8, 1, -1)])
    tokenizer.add_special_tokens([AddedToken("<|im_end|>", lstrip=True, special=True), AddedToken("<s>", rstrip=True, special=True),
                                  AddedToken("</s>", single_word=True, special=True)])
    return tokenizer


SYNTHETIC = {
    "gpt2": gpt2, "gpt2_prefix_space": gpt2_prefix_space, "qwen": qwen, "llama3": llama3, "deepseek3": deepseek3, "granite": granite,
    "o200k": lambda: byte_level(split_then_bytes(O200K)), "kimi": lambda: byte_level(split_then_bytes(KIMI)),
    "cl100k": lambda: byte_level(split_then_bytes(CL100K)), "deepseek2": lambda: byte_level(split_then_bytes(*DEEPSEEK2)),
    "llama2": llama2, "mixtral_v3": mixtral_v3, "metaspace_first": metaspace_first, "metaspace_never": metaspace_never,
    "metaspace_old": metaspace_old, "normalizing": normalizing, "splitting_1": splitting_1, "splitting_2": splitting_2,
    "added_tokens": added_tokens,
}

# For a tokenizer_config.json beside tokenizer.json: its text, and the post-processor that it amounts to.
CONFIGS = {
    "deepseek3": ({"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": True, "add_eos_token": False,
                   "bos_token": {"__type": "AddedToken", "content": "<｜begin▁of▁sentence｜>"}, "eos_token": "<｜end▁of▁sentence｜>"},
                  processors.TemplateProcessing(single="<｜begin▁of▁sentence｜> $A", special_tokens=[("<｜begin▁of▁sentence｜>", 0)])),
}


def fnv32(data):
    value = 0x811c9dc5
    for byte in data:
        value = ((value ^ byte) * 0x01000193) & 0xffffffff
    return f"{value:08x}"


def hash_ids(ids):
    return fnv32(b"".join(i.to_bytes(4, "little") for i in ids))


def random_ids(tokenizer, rng):
    size = max(tokenizer.get_vocab().values()) + 1
    return [rng.randrange(min(size, rng.choice([size, 300]))) for _ in range(rng.randint(0, 40))]


def golden(tokenizer, strings):
    texts = [(unit * times).decode("utf-8", "replace") for unit, times in strings]
    ids = [tokenizer.encode(text).ids for text in texts]
    decoded = [tokenizer.decode(i, skip_special_tokens=True) for i in ids]
    rng = random.Random(len(tokenizer.get_vocab()))
    noise = [random_ids(tokenizer, rng) for _ in range(100)]
    tokenizer.encode_special_tokens = True
    literal = [tokenizer.encode(text).ids for text in texts]
    tokenizer.encode_special_tokens = False
    return {
        "ids": ids[:NUM_IN_FULL],
        "ids_hashes": "".join(map(hash_ids, ids)),
        "literal_ids_hashes": "".join(map(hash_ids, literal)),
        "text_hashes": "".join(fnv32(text.encode()) for text in decoded),
        "noise": [{"ids": i, "text": tokenizer.decode(i, skip_special_tokens=True), "full_text": tokenizer.decode(i, skip_special_tokens=False)}
                  for i in noise],
    }


def write_strings(strings):
    lines = []
    for unit, times in strings:
        try:
            text = unit.decode()
            entry = text if times == 1 else {"text": text, "times": times}
        except UnicodeDecodeError:
            entry = {"hex": unit.hex()}
        lines.append(json.dumps(entry, ensure_ascii=False))
    (HERE / "strings.jsonl").write_text("\n".join(lines) + "\n")


def with_string_merges(text):
    """The older spelling of merges, "a b" for ["a", "b"]."""
    spec = json.loads(text)
    spec["model"]["merges"] = [" ".join(pair) for pair in spec["model"]["merges"]]
    return json.dumps(spec, ensure_ascii=False)


def tokenizer_text(name):
    made = SYNTHETIC[name]()
    text = made if isinstance(made, str) else json.dumps(json.loads(made.to_str()), ensure_ascii=False)
    return with_string_merges(text) if name in ("gpt2", "granite") else text


def write_synthetic(name):
    folder = HERE / "synthetic" / name
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "tokenizer.json"
    if not file.exists():
        file.write_text(tokenizer_text(name))
    tokenizer = Tokenizer.from_file(str(file))
    if name in CONFIGS:
        config, tokenizer.post_processor = CONFIGS[name]
        (folder / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False))
    return tokenizer


def main():
    strings = sample_strings.all_strings()
    write_strings(strings)
    tokenizers = {name: write_synthetic(name) for name in SYNTHETIC}
    for argument in sys.argv[1:]:
        name, folder = argument.split("=", 1)
        tokenizers[name] = Tokenizer.from_file(folder + "/tokenizer.json")
    (HERE / "golden").mkdir(exist_ok=True)
    for name, tokenizer in tokenizers.items():
        text = json.dumps(golden(tokenizer, strings), ensure_ascii=False, separators=(",", ":"))
        (HERE / "golden" / f"{name}.json").write_text(text + "\n")
        print(name, len(text))


if __name__ == "__main__":
    main()
