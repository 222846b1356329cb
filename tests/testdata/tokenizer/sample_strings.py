"""The strings on which tokenizers are compared: the same list on every run. Bytes, because some are not UTF-8."""
import random
import unicodedata

LANGUAGES = [
    "The quick brown fox jumps over the lazy dog. It's 12:34 o'clock; they've said we'll go, I'd stay!",
    "Der Fuchs lief über die Straße, größer als je zuvor; 3,5 Äpfel kosten 1.234,56 €.",
    "L'élève a mangé des œufs à Noël, n'est-ce pas ? « Oui », dit-il.",
    "El niño pequeño preguntó: ¿cuántos años tienes? ¡Veintidós!",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. Τί κάνεις;",
    "هذا نص تجريبي باللغة العربية، مع أرقام ١٢٣٤٥ وعلامات؟",
    "זהו משפט בעברית עם ניקוד: שָׁלוֹם עֲלֵיכֶם",
    "यह एक हिन्दी वाक्य है। क्या आप कैसे हैं? १२३",
    "ภาษาไทยไม่มีการเว้นวรรคระหว่างคำ ๑๒๓",
    "我能吞下玻璃而不伤身体。二〇二四年,价格是¥300!",
    "私はガラスを食べられます。それは私を傷つけません。カタカナ、ひらがな・漢字ー",
    "나는 유리를 먹을 수 있어요. 그래도 아프지 않아요",
    "Tiếng Việt có nhiều dấu: nghiêng, ngả, đường, khuỷu tay.",
    "İstanbul'da ılık bir gün, ŞIRNAK ve ığdır.",
    "Zażółć gęślą jaźń, łąka ĄĘŚĆŻŹŃÓŁ",
    "ქართული ენა და հայերեն լեզու, አማርኛ ቋንቋ",
    "བོད་ཡིག་ནི་སྐད་ཡིག་ཅིག་རེད། မြန်မာဘာသာ ខ្មែរ ລາວ",
    "Once upon a time there was a little girl who lived in a village near the forest.",
    "\"Grandmother, what big ears you have!\" - 'All the better to hear you with,' said the wolf.",
]

CODE = [
    "def f(x, *args, **kwargs):\n    return [i ** 2 for i in range(x) if i % 3 == 0]\n\n\nprint(f(10))\n",
    "#include <vector>\nint main() {\n\tstd::vector<int> v{1, 2, 3};\n\treturn v[0] != 0x1F ? 0 : 1;\n}\n",
    "SELECT id, name FROM users WHERE created_at >= '2024-01-01' AND (a<>b OR c!=d) -- comment\n",
    "<div class=\"a b\" id='x'>\r\n  <p>Hello&nbsp;World</p>\r\n</div>\r\n",
    "{\"key\": [1.5e-10, true, null, \"\\u00e9\\n\"], \"nested\": {\"a\": {}}}",
    "const x = async () => { await fetch(`https://example.com/?q=${encodeURIComponent(s)}`); };",
    "for i in $(seq 1 10); do echo \"$i\" | sed 's/[0-9]\\+/X/g' >> out.txt 2>&1; done",
    "\\begin{equation} \\sum_{i=0}^{\\infty} \\frac{x^i}{i!} = e^x \\end{equation}",
    "a=b+c-d*e/f%g^h&i|j~k!l?m:n;o,p.q@r#s$t\\u`v'w\"x(y)z[0]{1}<2>3",
    "if(x){\n\n\n\n        y();\n    \n}\t\t\t// done   \n   ",
]

EMOJI = [
    "👩‍👩‍👧‍👦", "👍🏽", "🇩🇪🇯🇵", "❤️", "🏳️‍🌈", "1️⃣", "🤷🏿‍♀️", "😀", "🧑‍🚀", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "♥", "☃︎",
]

SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "<unk>", "<|begin_of_text|>", "<|eot_id|>",
    "<think>", "</think>", "<｜begin▁of▁sentence｜>", "<｜User｜>", "[INST]", "[/INST]", "<0x0A>", "<0xE4>", "▁", "▁▁the",
    "|||IP_ADDRESS|||", "<|padding|>", "<l>", "<r>", "<lr>", "word", "Norm Token", "<a>", "<a><b>", "ÅNGSTRÖM",
]

SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\r", "\n\n", " \n", "\n ", "\x0b", "\x0c", "\x85", "\xa0", "\u1680",
          "\u180e", "\u2000", "\u2003", "\u200a", "\u200b", "\u2028", "\u2029", "\u202f", "\u205f", "\u2060", "\u3000",
          "\ufeff", "\x1c", "\x1f"]

CONTRACTIONS = ["'s", "'S", "'t", "'re", "'RE", "'Ve", "'m", "'ll", "'LL", "'d", "'D", "'\u017f", "\u2019s", "'x", "''s"]

WORDS = ("the of and a to in is you that it he was for on are as with his they I at be this have from or one had by word but "
         "not what all were we when your can said there use an each which she do how their if will up other about out many "
         "then them these so some her would make like him into time has look two more write go see number no way could "
         "people my than first water been call who oil its now find long down day did get come made may part strawberry "
         "camelCaseWord HTTPServer snake_case_name SCREAMING_CASE iPhone McDonald x86_64 naïve café Ångström ﬁnance ǅ "
         "ⅷ ½ ² ª ⓐ ﷺ ﬀ Ⅻ ㎏ ｆｕｌｌ ＷＩＤＴＨ １２３ ḍ̇ q̣̇ ế ǟ 각 각").split()

NUMBERS = ["0", "7", "42", "123", "1234", "12345", "1234567890", "3.14159", "1,000,000", "0x1F", "١٢٣", "१२३४", "²³", "½", "Ⅻ",
           "一二三", "𝟙𝟚𝟛"]

MARKS = [chr(c) for c in (0x300, 0x301, 0x302, 0x303, 0x308, 0x30a, 0x315, 0x316, 0x323, 0x327, 0x328, 0x330, 0x345, 0x5b0,
                          0x64b, 0x93c, 0x94d, 0xe38, 0x1dc0, 0x20d0, 0x20dd, 0x3099, 0xfe0f, 0xfe20)]

INVALID = [b"\xff", b"\xc3", b"\xe4\xbd", b"\xf0\x9f\x98", b"\x80", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80",
           b"\xe4\xbd\xa0\xbf", b"\xe0\x80\x80", b"\xf0\x80", b"\xc3(", b"\xe2\x28\xa1", b"\xe2\x82"]


def assigned_characters():
    """Characters that all the Unicode versions involved know (this Python's is 14.0 or later)."""
    planes = list(range(0x20, 0xd800)) + list(range(0xe000, 0xfffe)) + list(range(0x10000, 0x1f000)) + list(range(0x20000, 0x20100))
    return [chr(c) for c in planes if unicodedata.category(chr(c)) not in ("Cn", "Co", "Cs") and age_is_old(c)]


def age_is_old(code_point):
    return unicodedata.ucd_3_2_0.category(chr(code_point)) != "Cn"


def piece(rng, characters):
    kind = rng.randrange(16)
    if kind <= 3:
        return rng.choice(["", " ", " ", " "]) + rng.choice(WORDS)
    if kind == 4:
        return rng.choice(SPACES) * rng.randint(1, 5)
    if kind == 5:
        return " " * rng.randint(1, 40)
    if kind == 6:
        return rng.choice(NUMBERS)
    if kind == 7:
        return rng.choice(WORDS) + rng.choice(CONTRACTIONS)
    if kind == 8:
        return "".join(rng.choice("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~«»„“…—–・。、！？") for _ in range(rng.randint(1, 6)))
    if kind == 9:
        return rng.choice(EMOJI) * rng.randint(1, 3)
    if kind == 10:
        return rng.choice("aeioucnsAEOzḍ가は") + "".join(rng.choice(MARKS) for _ in range(rng.randint(1, 5)))
    if kind == 11:
        return "".join(chr(rng.randint(0x4e00, 0x9fa5)) for _ in range(rng.randint(1, 5)))
    if kind == 12:
        return rng.choice(["", " ", "  "]) + rng.choice(SPECIAL) + rng.choice(["", " ", "\n", "a"])
    if kind == 13:
        return "".join(rng.choice(characters) for _ in range(rng.randint(1, 6)))
    if kind == 14:
        sentence = rng.choice(LANGUAGES + CODE)
        start = rng.randrange(len(sentence))
        return sentence[start:start + rng.randint(1, 20)]
    return "".join(chr(rng.randint(0, 0x9f)) for _ in range(rng.randint(1, 4)))


def sample(rng, characters):
    text = "".join(piece(rng, characters) for _ in range(rng.choice([1, 2, 3, 4, 6, 9, 14])))
    form = rng.randrange(8)
    if form == 0:
        text = unicodedata.normalize("NFD", text)
    elif form == 1:
        text = text.upper()
    data = text.encode()
    if rng.randrange(6) == 0:
        for _ in range(rng.randint(1, 3)):
            at = rng.randint(0, len(data))
            data = data[:at] + rng.choice(INVALID) + data[at:]
    if rng.randrange(40) == 0:
        data = bytes(rng.randrange(256) for _ in range(rng.randint(1, 60)))
    return data


def all_strings():
    """(unit, times): the string is `unit` (bytes), repeated."""
    rng = random.Random(2718)
    fixed = ["", " ", "a", "\n", "Hello, world!"] + LANGUAGES + CODE + EMOJI + SPECIAL + SPACES + CONTRACTIONS + NUMBERS
    fixed += [word + " " + word for word in ("<l>", "<r>", "<lr>", "word", "Norm Token", "<a><b><a>", "words word_word word")]
    strings = [(text.encode(), 1) for text in fixed] + [(data, 1) for data in INVALID]
    characters = assigned_characters()
    strings += [(sample(rng, characters), 1) for _ in range(2000)]
    for unit in ("a", "ab", "Ab", "A", "é", "e\u0301", "字", "👍🏽", " ", "\n", " \n", "7", "12 ", "!", "- ", "\u0301", "\u0316\u0301", "\t", "x" * 50 + " ",
                 "the ", "<|im_end|>", "<0x0A>", "▁", "word "):
        strings.append((unit.encode(), 3000))
    return strings
