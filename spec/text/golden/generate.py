"""Writes the golden files of this folder with the libraries whose results they fix.

    python -m venv /tmp/golden && /tmp/golden/bin/pip install tokenizers nltk rouge_score
    /tmp/golden/bin/python spec/text/golden/generate.py

stems.txt       word stem          nltk.stem.porter.PorterStemmer(), one word a line
rouge.json      reference, candidate, recall, precision, f     rouge_score, rougeL, use_stemmer
encodings.json  for both patterns: a tokenizer.json trained by `tokenizers`, and the ids it gives
added.json      one small tokenizer with other added tokens and post-processors, and the ids it gives
"""
import itertools
import json
import pathlib
import random

from nltk.stem.porter import PorterStemmer
from rouge_score import rouge_scorer
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).parent

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
          r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")

# Our own sentences: the words of novels, archives and kitchens.
TRAIN = """The lighthouse keeper's daughter wrote her first novel in the winter of 1987.
She has published eleven novels, four collections of stories and one cookbook.
Her father repaired clocks; her mother taught mathematics at the harbour school.
Critics praised "The Salt Ledger" for its quiet, careful, unhurried sentences.
I'm not sure when he was born. We don't know. They'll say it's been 40 years, haven't they?
Où est la bibliothèque? Die Straße ist naß. Привет, мир! 東京は雨です。 안녕하세요 😀👍🏽
for i in range(10):\n    print(i, i * i)\n\n\treturn {"a": [1, 2, 3]}\n
The prize went to the novelist in 2004, and again in 2011; the jury's decision was unanimous.
""" * 3

TEXTS = [
    "", " ", "a", "hello", " hello  world ", "The keeper's novel wasn't published.",
    "I'M SURE WE'LL SEE IT'S HERE, they'Ve said", "tabs\tand\n\nnewlines\r\n\r\n  indented\n",
    "     five blanks", "trailing blanks     ", "1234567890 12 3", "x=y+z;//...!!!???\n\n",
    "Où est l'été? naïve façade", "Привет, мир! Ёлка", "東京は雨です。漢字かな交じり文", "안녕하세요 세계",
    "😀😀👍🏽 👨‍👩‍👧 e\u0301 \u00a0nbsp\u2003em \u3000ideographic", "\u200bzero\u200dwidth\ufeff",
    "مرحبا بالعالم ١٢٣ हिन्दी ४५६", "½ ² Ⅷ ① 3.14e-10", "a" * 100, "ab" * 50 + " " * 30 + "\n" * 10,
    "snake_case camelCase kebab-case", "<|endoftext|>", "one<|endoftext|>two <|endoftext|> three",
    "\x00\x01\x7f\x80\u0085", "'s't're'LL'd''", "\t\t\tx", " \n \n x", "don\u2019t \u2018quote\u2019",
    "Lighthouse keepers repaired the harbour clock in 1987-2011.",
]


def alphabets_of_blanks():
    """Every text of length 5 over a few characters that the patterns treat differently."""
    rng = random.Random(1)
    every = ["".join(t) for t in itertools.product("a1 \n'", repeat=5)]
    return rng.sample(every, 120)


def tokenizer(pattern):
    tok = Tokenizer(models.BPE())
    if pattern == "gpt2":
        tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        tok.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(TRAIN.splitlines(keepends=True), trainers.BpeTrainer(
        vocab_size=480, special_tokens=["<|endoftext|>"], show_progress=False, min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tok


def encodings():
    out = {"train": TRAIN.splitlines(keepends=True), "texts": TEXTS + alphabets_of_blanks()}
    for pattern in ("llama3", "gpt2"):
        tok = tokenizer(pattern)
        out[pattern] = {"tokenizer": json.loads(tok.to_str()),
                        "ids": [tok.encode(t).ids for t in out["texts"]]}
    return out


def added_token(id, content, special=False, normalized=False):
    return {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": normalized, "special": special}


def template(before, after):
    """A post-processor that puts tokens, (name, id) or None, around a text."""
    token = lambda t, n: [{"SpecialToken": {"id": t[0], "type_id": n}}] if t else []
    one = lambda name, n: token(before, n) + [{"Sequence": {"id": name, "type_id": n}}] + token(after, n)
    return {"type": "TemplateProcessing", "single": one("A", 0), "pair": one("A", 0) + one("B", 1),
            "special_tokens": {t[0]: {"id": t[0], "ids": [t[1]], "tokens": [t[0]]}
                               for t in (before, after) if t}}


def added():
    """Bytes, a few merges, and in each case other added tokens or another post-processor."""
    words = ["<s>", "</s>"] + sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("\u0120", "\u0120"), ("\u0120\u0120", "\u0120\u0120"), ("t", "h"), ("th", "e"), ("a", "b"),
              ("\u010a", "\u010a")]
    words += [a + b for a, b in merges]
    vocab = {word: id for id, word in enumerate(words)}
    base = json.loads(Tokenizer(models.BPE(vocab=vocab, merges=merges)).to_str())
    base["pre_tokenizer"] = json.loads(tokenizer("gpt2").to_str())["pre_tokenizer"]
    base["decoder"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                       "use_regex": True}
    n, bos, eos = len(words), ("<s>", 0), ("</s>", 1)
    marks = [added_token(0, "<s>", special=True), added_token(1, "</s>", special=True)]
    blanks = [added_token(n + i, " " * k, normalized=True) for i, k in enumerate(range(6, 1, -1))]
    mixed = [("ab", {}), ("abc", {"normalized": True}), ("<s>x", {}), ("s>", {"normalized": True}),
             ("\n\n", {}), ("\u65e5", {}), ("s", {}), ("b</", {"normalized": True}),
             ("bc", {"special": True, "normalized": True}), ("c", {"normalized": True})]
    new = [content for content, _ in mixed if content not in vocab] # `tokenizers` counts on from n
    mixed = [added_token(vocab[c] if c in vocab else n + new.index(c), c, **more) for c, more in mixed]
    level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    around = {"cls": ["<s>", 0], "sep": ["</s>", 1]}
    cases = [
        {"added_tokens": marks}, {"added_tokens": marks + blanks}, {"added_tokens": marks + mixed},
        {"added_tokens": marks + [added_token(vocab["the"], "the")]},
        {"added_tokens": marks, "post_processor": template(bos, None)},
        {"added_tokens": marks, "post_processor": template(None, eos)},
        {"added_tokens": marks + blanks, "post_processor": template(bos, eos)},
        {"added_tokens": marks, "post_processor": template(bos, bos)},
        {"added_tokens": marks, "post_processor": level},
        {"added_tokens": marks,
         "post_processor": {"type": "Sequence", "processors": [level, template(bos, None)]}},
        {"added_tokens": marks, "post_processor": {
            "type": "RobertaProcessing", "trim_offsets": True, "add_prefix_space": False, **around}},
        {"added_tokens": marks, "post_processor": {"type": "BertProcessing", **around}},
    ]
    texts = ["", "a    b", "  x", "       seven", "ab abc abcab", "<s>", "<s>x<s>", "a<s>b</s>", "ab</s>",
             "\n\n\n", "the theme", "\u65e5 e\u00e9", "s>s<s>xs>", "</s>abc</s>", "   \n\n    ", "bcbc abcbc"]
    for case in cases:
        tok = Tokenizer.from_str(json.dumps({**base, **case}))
        case["around"] = [tok.encode(t).ids for t in texts]
        case["ids"] = [tok.encode(t, add_special_tokens=False).ids for t in texts]
        tok.encode_special_tokens = True
        case["as_text"] = [tok.encode(t, add_special_tokens=False).ids for t in texts]
    return {"base": base, "texts": texts, "cases": cases}


def stems():
    roots = """adopt agree argu activ act allow angl beauti believ bowdler bus caress cat ceas chang charm clu
        conform communic condit conflat control cri critic decis defens depend derive determin die digit
        electr fail fall feed fil fizz form formal generat goodn gyroscop happ hesit hiss homolog hop
        hope inform infer irrit knack lighthous logic lull motor mov nationalis need novel oper pirate
        plaster plan play pon prais predic probat public publish quick radic rat rate relat reviv
        revol roll sad sens sensit shar sing siz skat sky sleep tan tie tour trad triplic troubl try
        typ valu vietnam viol write yell zero by cry spy dry buy obey enjoy us is as up ye""".split()
    endings = """ s es ies ied ed eed ing ings ingly er ers or ors y ly ally able ible ably ibly ance ence
        ant ent ement ment ments ion ions ation ations ational tional ator izer ization ize izes ized
        izing alism ality al alize ic ical icate iciti icity ism ist iti ity ive iveness ative ativeness
        ful fully fulness fulli less ness ou ous ously ousness logy logi logies eli entli bli biliti
        bility enci anci e ee ll lle ate ated ating ble bled bling sses ss""".split()
    fixed = """sky skies dying lying tying news innings inning outings outing cannings canning howe proceed
        exceed succeed proceeds exceeded succeeding dies lies ties died lied tied cried tried flies
        happy happily enjoy say saying says by my y yy yyy syzygy yay ayaya toy toys boyish a an be is
        was has ing ed s ss es ies ied eed need feed agreed freed bled sing singing king ring rings
        falling hopping tanned hissing fizzed failing filing matting mating meeting sized organized
        oscillate rational relational conditional conformably radically vilely analogously callousness
        formality sensitivity sensibility triplicate formative formalize electricity electrical
        hopeful goodness revival allowance inference airliner adjustable defensible irritant
        replacement adjustment dependent adoption homologous communism activate angularity effective
        bowdlerize probate rate cease controll roll geology theology apology logically fully gently
        generalizations oscillators abc1 1984 3rd 20th x2y aeiou bcdfg oed ying eying dyed owed used
        using uses user as us ass asses gases this his yes yesterday byes eyes wolves knives
        author authors authored authorship novelist novelists biography biographies literary
        literature inspired inspiring awards awarded genre genres fiction fictional father mother
        parents occupation occupations profession professional""".split()
    words = sorted(set(fixed) | {r + e for r, e in itertools.product(roots, endings)})
    keep = set(random.Random(2).sample(words, 2300)) | set(fixed)
    stem = PorterStemmer().stem
    return [f"{w} {stem(w)}" for w in sorted(keep)]


def rouge():
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    pairs = [
        ("", ""), ("", "a word"), ("a word", ""), ("...", "!!!"), ("One word.", "one WORD!"),
        ("The cats are dying in the skies", "a cat dies under the sky"),
        ("Her father's occupation was a clock-maker.", "her fathers occupations were clock maker"),
        ("caf\u00e9 na\u00efve r\u00e9sum\u00e9", "cafe naive resume"),
        ("\u212aelvin at 0\u212a", "kelvin at 0k"), ("\u0130stanbul and D\u0130Y", "istanbul and diy"),
        ("snake_case_name", "snake case name"), ("1,234.5 and 2nd", "1 234 5 and 2ND"),
        ("a b c d e f", "f e d c b a"), ("a a a b", "a b a a"), ("x" * 300, "x" * 300),
        ("I don't know the answer to that.", "I don't have that information."),
    ]
    rng = random.Random(3)
    words = "the author was born in a quiet town and novels writing stories flies hopeful".split()
    for _ in range(40):
        a = [rng.choice(words) for _ in range(rng.randint(1, 18))]
        b = [w for w in a if rng.random() < 0.7] + [rng.choice(words) for _ in range(rng.randint(0, 5))]
        pairs.append((" ".join(a), " ".join(b)))
    out = []
    for reference, candidate in pairs:
        s = scorer.score(reference, candidate)["rougeL"]
        out.append([reference, candidate, s.recall, s.precision, s.fmeasure])
    return out


def compact(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"


def main():
    (HERE / "stems.txt").write_text("\n".join(stems()) + "\n", encoding="utf-8")
    (HERE / "rouge.json").write_text(compact(rouge()), encoding="utf-8")
    (HERE / "encodings.json").write_text(compact(encodings()), encoding="utf-8")
    (HERE / "added.json").write_text(compact(added()), encoding="utf-8")


if __name__ == "__main__":
    main()
