"""Which answer a judge's prose calls the better one, language by language.

English prose is searched, because nearly all judges reason in it at length; every other language has a
grammar of its own here, and a sentence counts only where it is an opening phrase, one of the claims that
the grammar lists, and a reason or nothing, from its first word to its last. A grammar is used on sentences of
its own language alone. Whatever is not surely read (a denial, a condition, a question, a judgment of one
criterion, a word that no list holds) says nothing: a reply that cannot be read is asked again, a wrong side
is never noticed.

Letters in scripts that only look alike (Cyrillic А and В, Greek Α and Β) are no labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

OTHER_SIDE = {"A": "B", "B": "A"}
OF_ORDINAL = {"first": "A", "second": "B"}
NOUN = r"(?:assistant|answer|response|option|model|candidate|output|chatbot)"
CRITERION = (
    r"(?:factual|accura|correct(?!ion|ed)|helpful|structur|concis|clarity|relevan|depth|detail|creativ|style|brevity"
    r"|tone|format|length|readab|complete|coheren|truthful|usefulness|humou?r|grammar|engag|original)\w*"
)
HAN = "\u3400-\u9fff"
KANA = "\u3040-\u30ff"
HANGUL = "\uac00-\ud7a3"
CYRILLIC = "\u0400-\u04ff"
# Letters beside which no grammar here may be used: Greek, Hebrew, Arabic, the scripts of India, Thai, ...
FOREIGN_SCRIPT = re.compile("[\u0370-\u03ff\u0530-\u10ff\u1200-\u18af]")
OPENING_MARKS, CLOSING_MARKS = r"[\"'“”„«‹「『《〈(\[]*\s*", r"\s*[\"'“”»›」』》〉)\]]*"


# ---------------------------------------------------------------------------
# English: searched, and every doubt in the sentence counts against the claim

ADVERBS = (
    r"(?:(?:is|was|does|did|has|provide[sd]?|gives?|gave|offer(?:s|ed)|comes? out|(?-i:an?)|the|much|far"
    r"|also|still"
    r"|clear(?:ly)?|slight(?:ly)?|significantly|substantially|considerably|marginally|obviously|definitely"
    r"|notably|noticeably|markedly|decidedly|somewhat|generally|vastly|strongly|certainly|arguably|ultimately"
    r"|undoubtedly|easily|objectively|truly|simply|a bit|a little|by far|as|overall)\s+){0,6}"
)
VERBS = (
    r"(?:is|was|does|did|has|provide[sd]?|gives?|gave|offer(?:s|ed)|comes? out|wins|won|outperforms?"
    r"|loses|lost)\b"
)
# Behind "better": the end, the opponent, a reason or a noun for the whole answer; not "better structure".
WHOLLY = (
    r"(?=\s*(?:$|[.,;:!)(\n—–]|than (?!or\b)(?:the (?:other|first|second)|(?:the )?(?:assistant|answer"
    r"|response"
    r"|option|model)\b|\(?[AB]\b|it\b|that\b)|(?:overall|because|since|as|due|here|by|over)\b(?! or\b)"
    r"|(?:answer|response|choice|option|one|job)\b(?!\s+(?:at|of|on|with)\b)"
    r"|to (?:\(?[AB]\b|the other|answer|response|assistant|option|model)"
    r"|for (?:this|these|its|several|the (?:following|user|question|task|prompt|most))\b"
    r"|in (?:this|general|every|all|my)\b))"
)
GOOD = (
    r"(?:better|superior|stronger|prefer(?:able|red)|best|the winner|ahead|wins|won|outperforms?)\b" + WHOLLY
)
# "less verbose" would be praise: only what is surely a fault may be lacking.
BAD = (
    r"(?:worse|inferior|weaker|loses|lost|loser"
    r"|less (?:helpful|accurate|correct|useful|effective|convincing|factual|preferable|informative|good))\b"
) + WHOLLY
BARE = r"\(?(?<![A-Za-z0-9'’])(?-i:(?P<s>[AB]))(?![A-Za-z0-9+-])\)?"
NAMED = (
    rf"(?:(?:\b{NOUN}s? ?){BARE}(?:['’]s)?(?: {NOUN}| one)?|\b(?:the )?(?P<nth>first|second) {NOUN}"
    rf"(?: \([AB]\))?)"
)


def subjects(form: str) -> Iterator[re.Pattern[str]]:
    """A form with each way to name a side in the place of SUBJECT."""
    plain = rf"(?:{BARE}(?:['’]s (?:{NOUN}|one))?)"
    for subject in (NAMED, plain):
        yield re.compile(form.replace("SUBJECT", subject), re.I)


HOW_CLEARLY = r"(?:clearly|slightly|easily|narrowly|definitely|still|therefore|overall|handily|convincingly)"
# The side that is beaten, named, and then the end or a reason; not "beats B on style".
OPPOSED = (
    rf"(?:the other(?: {NOUN}| one)?|(?:the )?(?:{NOUN} )?\(?(?-i:(?P<o>[AB]))\)?(?![A-Za-z0-9+-])"
    rf"|the (?P<onth>first|second) (?:{NOUN}|one))"
    r"(?=\s*(?:$|[.,;:!)\n]|(?:because|since|as|due|here|overall|thanks)\b))"
)
# A bare capital A before an adjective is an article ("A better response"): it needs a verb, or its opponent.
OPPONENT = rf"better than (?:{NOUN} )?\(?[AB]\b"


@cache
def english_forms() -> list[re.Pattern[str]]:
    """The claims that English prose is searched for; compiled at the first of them (a third of a second)."""
    return [
        *(
            re.compile(rf"{NAMED},?\s*{ADVERBS}(?:{verdict})", re.I)
            for verdict in (GOOD, BAD.replace("(?:worse", "(?P<bad>worse", 1))
        ),
        *(
            re.compile(
                rf"{BARE}(?:['’]s (?:{NOUN}|one))?\)?,?\s*(?={VERBS}|{ADVERBS}{OPPONENT})"
                rf"{ADVERBS}(?:{verdict})",
                re.I,
            )
            for verdict in (GOOD, BAD.replace("(?:worse", "(?P<bad>worse", 1))
        ),
        *subjects(
            r"(?:^\W*|[,;:]\s*|\b(?:I|we)\b[^.,;:]{0,25}?\b|\b(?:so|therefore|thus|hence)\s+(?:I\s+)?)"
            r"(?:prefer|choose|pick|select|favou?r|go with|vote(?: for)?|went with|chose|picked"
            r"|selected)\s+SUBJECT"
            r"(?=\s*(?:$|[.,;:!)\n]|(?:over|because|since|as|due|here|overall|instead|in this|to be|for)\b))"
        ),
        *subjects(
            r"\b(?:in favou?r of|(?:the |an? |slight )*(?:edge|win|nod|victory|point) (?:goes )?to)\s+SUBJECT"
            r"(?=\s*(?:$|[.,;:!)\n]|(?:because|since|as|due|here|overall)\b))"
        ),
        *subjects(
            rf"\b(?:better|best|superior|stronger|preferred|winning) (?:{NOUN}|one)"
            rf" (?:here |overall )?(?:is|was) (?:clearly |still |therefore )?SUBJECT"
            r"(?=\s*(?:$|[.,;:!)\n]|(?:because|since|as|due|here|overall)\b))"
        ),
        *subjects(r"\b(?:so|therefore|thus|hence|ultimately|overall),? SUBJECT(?=\s*(?:[.!]|$))"),
        *subjects(
            rf"SUBJECT,? (?:{HOW_CLEARLY} )*(?:beats?|defeats?|outperforms?|surpasses|outshines|outclasses"
            rf"|edges out|wins? over|(?:has )?(?:beat|beaten|defeated|outperformed|surpassed))"
            rf" {OPPOSED}"
        ),
        *subjects(
            rf"SUBJECT (?:is|was|gets|got|has been) (?:{HOW_CLEARLY} )*"
            rf"(?P<bad>beaten|defeated|outperformed|surpassed|outclassed) by {OPPOSED}"
        ),
        *subjects(
            rf"\b(?:the |my )(?:clear )?winner is (?:{HOW_CLEARLY} )*SUBJECT(?=\s*(?:$|[.,;!)\n]|and\b))"
        ),
        *subjects(
            rf"\b(?P<bad>(?:worse|worst|weaker|inferior|losing|poorer) (?:{NOUN}|one)|loser)"
            rf" (?:here |overall )?(?:is|was) (?:{HOW_CLEARLY} )*SUBJECT"
            r"(?=\s*(?:$|[.,;!)\n]|(?:because|since|as|due|here|overall)\b))"
        ),
    ]


TIED = re.compile(
    r"\b(?:it's|is|as|call it|be|are|were|a)(?: an?| considered| essentially){0,3} (?:tied?|draw)\b"
    r"|\bno clear winner\b|\bneither \w+(?: \w+){0,3} better\b"
    r"|\b(?:are|is|were) (?:of |about |roughly )*(?:equal(?:ly good)?|the same)(?: in)?(?: quality)?"
    r"(?=\s*(?:$|[.;!]))",
    re.I,
)
# In the claim's own clause any of these takes it back ...
DENIED = re.compile(
    r"\b(?:not|no|never|neither|nor|none|nothing|cannot|hardly|scarcely|barely|rarely|without|if|could|might"
    r"|may|should|would|whether|unless|refuse|decline|hesitate|reluctant|tempted|avoid|rather than"
    r"|instead of|against|reject|eliminate|rule out|far from|fails?|nearly|almost|equally|both)\b|n['’]t\b",
    re.I,
)
# ... and these anywhere before it in its sentence.
DOUBTED = re.compile(
    r"(?:\bnot|n['’]t) (?:true|the case|think|believe|say|agree|clear|sure|convinced|obvious|mean|find|see)\b"
    r"|\b(?:wrong|incorrect|false|mistak\w+|if|unless|whether|might|could|may|would|seem\w*|appear\w*"
    r"|some (?:people|readers|users|judges|may)|others?|initially|at first|first (?:glance|sight)|thought"
    r"|claims?|claimed|says?|said|think|believe|tied?|draw|told|heard|read|suppos\w+|assum\w+|imagine"
    r"|hypothe\w+|disagree|doubt\w*"
    r"|deny|denies"
    r"|argue[sd]?"
    r"|hard to|difficult to|impossible|cannot|before|previously|expected|asks?|asked|instruct\w+"
    r"|criteri\w+)\b",
    re.I,
)
CONDITION = re.compile(
    r"\b(?:if|unless|only|provided (?:that|you|it)|assuming|except|depending|when|whenever|or not|in no way"
    r"|by no means|at nothing|were it)\b",
    re.I,
)
ONE_CRITERION_AFTER = re.compile(
    rf"[^,.;]*\b(?:in|at|on|for|regarding|concerning|as to)\b[^,.;]{{0,25}}\b{CRITERION}\b"
    r"|\s*(?:than\s+)?(?:(?:the )?(?:other|answer|response|assistant|option|model)\s*)?\(?[AB]?\b\)?\s*"
    r"(?:in|at|on|for|regarding)\s+(?!this\b|general\b|every|all\b|my\b|overall\b|the whole|balance"
    r"|quality\b|these\b|most\b|its\b|several\b|the (?:following|user|question|task|prompt|most)\b)"
    r"|\s*(?:to|for|on|in|at|of) (?:the )?(?:first|second|third|last|part|one|some|other)\b",
    re.I,
)
ONE_CRITERION_BEFORE = re.compile(
    rf"\b(?:in terms of|in|regarding|concerning|as for|on|for|with respect to|when it comes to|with regard to"
    rf"|considering|by)\b[^.;]{{0,40}}\b{CRITERION}\b|^\W*(?:\d+\W+)?{CRITERION}[^.;]{{0,30}}[:–—-]",
    re.I,
)
CONCLUDES = re.compile(r"\b(?:therefore|thus|hence|overall|conclusion|ultimately|so|verdict|final)\b", re.I)
# What may stand before a letter that names a side; "Plan B" and "Vitamin A" name none.
BEFORE_LETTER = re.compile(
    rf"{NOUN}s?|that|think|believe|say|find|so|therefore|thus|hence|overall|ultimately|consequently|but|and"
    r"|however|while|whereas|because|since|as|although|though|i|we|conclude|judge|clearly|is|was|to|for|of"
    r"|than"
    r"|prefer|choose|pick|select|favou?r|chose|picked|selected|with|in|conclusion|summary|case|opinion"
    r"|finally"
    r"|still|actually|here|now|then|yet|also",
    re.I,
)
OWN_CHOICE = re.compile(
    r"\bI(?:['’]d| would| will|['’]ll| must| have to| had to)?(?: (?:say|argue|think|believe|conclude"
    r"|judge|find))?(?: that)?\b",
    re.I,
)
# Words of the neighbours: a sentence with one of them is not read as English, whatever else is in it.
NOT_ENGLISH = re.compile(
    r"\b(?:ist|sind|nicht|und|oder|aber|besser|als|keine?r?|wenn|niet|geen|een|het|maar|dan|est|sont|pas|que"
    r"|mais|plus|moins|n['’]est|meilleure?|pire|es|mejor|peor|pero|porque|não|nao|melhor|pior|uma|mas|è|non"
    r"|meglio|migliore|peggiore|perch[eé]|più|inte|ikke|ikkje|bättre|bedre|nie|jest|lepsz\w+|değil|daha"
    r"|tidak|bukan|lebih|baik|không|hơn)\b",
    re.I,
)


def english_claims(sentence: str) -> set[str]:
    """The sides an English sentence claims; empty where any doubt is left.

    >>> english_claims("Therefore, Answer A is slightly better than Answer B.")
    {'A'}
    >>> english_claims("It would be wrong to say that A is better than B.")
    set()
    """
    if NOT_ENGLISH.search(sentence) or re.search(rf"[{HAN}{KANA}{HANGUL}{CYRILLIC}]", sentence):
        return set()
    sentence = OWN_CHOICE.sub("I", re.sub(r"[\"'“”‘’]([AB])[\"'“”‘’]", r"\1", sentence))
    if (tied := TIED.search(sentence)) and not DOUBTED.search(sentence[: tied.start()]):
        return set() if re.search(r"(?:\bnot|n['’]t)\W*\Z", sentence[: tied.start()], re.I) else {"Tie"}
    return {
        side
        for claim in english_forms()
        for found in claim.finditer(sentence)
        if not is_doubted(sentence, found) and spoken_of(found) != opponent(found)
        for side in [claimed_by(found)]
    }


def spoken_of(found: re.Match[str]) -> str:
    """The side that a claim speaks of."""
    return str(found["s"] or OF_ORDINAL[str(found.groupdict()["nth"]).lower()])


def opponent(found: re.Match[str]) -> str | None:
    """The side that a claim names as the other one, if it does."""
    groups = found.groupdict()
    return groups.get("o") or OF_ORDINAL.get(str(groups.get("onth")).lower())


def claimed_by(found: re.Match[str]) -> str:
    side = spoken_of(found)
    return OTHER_SIDE[side] if found.groupdict().get("bad") else side


def is_doubted(sentence: str, found: re.Match[str]) -> bool:
    """Whether the rest of its sentence denies a claim, makes it depend on something or narrows it."""
    before, after = sentence[: found.start()], sentence[found.end() :]
    clause = re.split(r"[,;:]|\b(?:but|however|while|whereas|although|though|so)\b", before, flags=re.I)[-1]
    word = re.search(r"(\w+)\s+\(?\Z", sentence[: found.start("s")]) if found["s"] else None
    return bool(
        (word and not BEFORE_LETTER.fullmatch(word[1]))
        or DENIED.search(clause + found[0])
        or DOUBTED.search(before)
        or ONE_CRITERION_BEFORE.search(before)
        or CONDITION.search(after)
        or ONE_CRITERION_AFTER.match(after)
    )


# ---------------------------------------------------------------------------
# The other languages: a sentence is read whole or not at all


@dataclass(frozen=True)
class Grammar:
    """How one language says which answer is better. All fields are regular expressions.

    script: a sentence without it is not of this language. nouns: what may stand beside a letter. openers:
    phrases before a claim. better: claims, with SUBJECT for the side they speak of and OTHER for the second.
    worse: the same, and the side spoken of loses. ties: whole claims that nobody wins. reasons: words that
    begin a reason behind a claim. doubts: words that take a claim back if they stand behind it.
    """

    language: str
    script: str
    nouns: str
    openers: str
    better: tuple[str, ...]
    worse: tuple[str, ...]
    ties: str
    reasons: str
    doubts: str


def side_pattern(nouns: str, name: str) -> str:
    """A letter with the nouns, quotes and brackets it may wear."""
    return (
        rf"(?:{nouns})?\s*{OPENING_MARKS}(?<![A-Za-z0-9])(?P<{name}>[AB])(?![A-Za-z0-9+]){CLOSING_MARKS}"
        rf"(?:\s*(?:{nouns}))?"
    )


def sentence_pattern(grammar: Grammar, form: str) -> re.Pattern[str]:
    """A whole sentence that makes the claim of a form."""
    claim = form.replace("SUBJECT", side_pattern(grammar.nouns, "s"))
    claim = claim.replace("OTHER", side_pattern(grammar.nouns, "o"))
    return re.compile(
        rf"\W*(?:(?:{grammar.openers})\s*[,:、—–-]*\s*){{0,4}}{claim}{CLOSING_MARKS}"
        rf"(?P<rest>\s*(?:[,;:(—–-]|{grammar.reasons}).*)?[\s.!。\"'*]*",
        re.I | re.S,
    )


ZH_NOUN = (
    r"(?:第?(?:个|一个)?)(?:答案|回答|回复|回覆|答复|選項|选项|助手|模型|方案|候选|版本)(?:的(?:回答"
    r"|答案|质量|質量|表现))?"
)
ZH_ADVERB = (
    r"(?:的?(?:回答|答案|质量|質量|表现|整体|整體))?(?:(?:明显|明顯|显然|顯然|整体上?|总体上?|總體上?"
    r"|略微?|稍微?|要|确实|的确"
    r"|都|还是|還是|无疑|質量|质量|表现得?|更为|更為|相对|相對|会|會|综合)*)\s*"
)
ZH_BETTER = (
    r"(?:更|较|較|最|更加)(?:好|优|優|佳|优秀|優秀|出色|胜一筹|勝一籌|强|強)(?:一些|一点|一點|一筹|一籌|些"
    r"|了)?"
    r"|胜出|勝出|获胜|獲勝|胜了?|勝了?|赢了?|贏了?|占优|佔優"
)
CHINESE = Grammar(
    language="Chinese",
    script=rf"[{HAN}]",
    nouns=ZH_NOUN,
    openers=(
        r"综上所述|綜上所述|综上|綜上|总的来说|總的來說|总体而言|總體而言|总体来看|总体来说|总之|總之"
        r"|总体上|综合来看|綜合來看"
        r"|综合考虑|综合比较|综合以上(?:分析|因素)?|因此|所以|故|最终|最終|最后|最後|我认为|我認為|我觉得"
        r"|我的判断是|我判断|在我看来"
        r"|经过比较|经比较|经过(?:仔细)?(?:分析|对比|评估)|比较(?:两个|这两个)?(?:回答|答案)后?|两相比较"
        r"|相比之下|相较之下|整体而言"
        r"|整体来看|(?:最终|最後|最后)?(?:结论|結論|判断|判定|结果|裁决)(?:是|为|:)?|显然|明显|很明显"
        r"|可以看出|由此可见|对比之下"
    ),
    better=(
        rf"SUBJECT\s*{ZH_ADVERB}(?:{ZH_BETTER})",
        rf"SUBJECT\s*{ZH_ADVERB}比\s*OTHER\s*{ZH_ADVERB}(?:{ZH_BETTER}|好(?:一些|一点|很多|得多|些)?|强|強"
        rf"|优秀)",
        rf"(?:相比于?|相较于?|与|跟|比起)\s*OTHER\s*(?:相比)?[,]?\s*SUBJECT\s*{ZH_ADVERB}(?:{ZH_BETTER})",
        rf"SUBJECT\s*{ZH_ADVERB}(?:优于|優於|好于|好於|胜过|勝過|强于|強於|超过|超過|战胜|打败"
        rf"|赢过)\s*了?\s*OTHER",
        (
            r"(?:我|本人)?\s*(?:会|將|将|最终|还是|更|应该|应|倾向于|倾向|更倾向于|决定)*\s*"
            r"(?:选择|選擇|选|選|偏好|喜欢|喜歡|支持|倾向于?|投票?给|推荐|判定?|裁定|认定|认为)\s*了?\s*"
            r"(?:的是)?\s*SUBJECT"
            r"\s*(?:为胜者|为胜|作为(?:更好的(?:回答|答案)|胜者)|获胜|胜出|胜|更好)?"
        ),
        (
            r"(?:我(?:的)?)?(?:更好|较好|較好|更优|更優|较优|更佳|最好|最佳|获胜|獲勝|胜出|優勝|优胜"
            r"|更出色|更优秀)"
            r"的?(?:那个|一个|一方|一项|者|回答|答案|回复|选项|模型|助手|方案)?\s*(?:是|为|為|应为|应是"
            r"|:)\s*SUBJECT"
        ),
        r"(?:我的)?(?:最终)?(?:胜者|勝者|获胜者|赢家|贏家|优胜者|选择|選擇|答案|判断|判定|结论|裁决"
        r"|偏好)\s*(?:应?该?)?(?:是|为|為|属于|給|给)\s*SUBJECT",
    ),
    worse=(
        r"SUBJECT\s*(?:明显|显然|略|稍|整体上?|总体上?)*\s*(?:不如|不及|逊于|遜於|逊色于|遜色於|差于|差於"
        r"|劣于|劣於|输给|輸給|比不上|不敌)"
        r"\s*了?\s*OTHER(?:\s*(?:好|优秀|優秀|出色))?",
        r"SUBJECT\s*(?:明显|显然)?没有\s*OTHER\s*(?:那么|那樣|那样)?(?:好|优秀|出色)",
        r"SUBJECT\s*(?:明显|要|略|稍)*比\s*OTHER\s*(?:明显|要|略|稍)*(?:更?差|更?糟|更?逊色|更?弱|更?劣)"
        r"(?:一些|一点|些|得多)?",
        r"SUBJECT\s*(?:明显|略|稍|整体上?)*(?:更|较|較)(?:差|弱|糟|逊色)(?:一些|一点|些)?",
    ),
    ties=(
        r"(?:(?:这|這)?(?:两者|兩者|双方|二者|两个(?:回答|答案)|两个都|[AB]\s*(?:和|与|與|跟)\s*[AB]|结果"
        r"|本轮|判定?为?))?(?:的?(?:质量|水平|表现))?"
        r"(?:是|为|為|基本上?|大致|几乎|都|打成|算)*\s*(?:平局|平手|打平|不分上下|不相上下|难分高下"
        r"|难分伯仲|难分胜负|一样好|一樣好|同样好"
        r"|同樣好|持平|旗鼓相当|水平相当|质量相当|势均力敌|相同|相当)"
    ),
    reasons=r"因为|因為|由于|由於|因",
    doubts=r"如果|若|假如|除非|但|不过|不過|然而|只是|的话|可能|或|吗|嗎|前提|仅|僅|只在|不对|不對|错|未必",
)

JA_NOUN = r"(?:回答|アシスタント|応答|選択肢|モデル|解答|案|オプション|答え)"
JA_BETTER = (
    r"(?:(?:より|明らかに|やや|わずかに|少し|総合的に|全体的に|全体として|もっと|最も|一番|はるかに|若干"
    r"|ずっと)*)\s*"
    r"(?:(?:良い|よい|良く|いい|好ましい|望ましい|優秀|適切|優れ|優れて(?:い|お)|すぐれ|すぐれて(?:い|お)"
    r"|勝っ?て(?:い|お)|勝ち|勝利|勝者|上|ベター|優勢)"
    r"(?:る|ます|ました|り|りました|た|だ|である|です|回答|答え)*)"
)
JA_END = (
    r"(?:(?:です|だ|である|でした|と(?:思います|思う|考えます|考える|判断します|判断する|判断しました"
    r"|言えます|いえます"
    r"|結論(?:付け|づけ)ます|評価します)|とします|とする|ます|でしょうね)*)"
)
JAPANESE = Grammar(
    language="Japanese",
    script=rf"[{KANA}]",
    nouns=JA_NOUN,
    openers=(
        r"したがって|従って|よって|以上(?:より|から|のことから|の(?:理由|点)から)?|総合的に(?:見て|見ると"
        r"|判断すると|判断して|考えると)?"
        r"|総合すると|全体的に(?:見て)?|全体として|結論として(?:は)?|結論(?:は|:)|最終的に(?:は)?|そのため"
        r"|つまり|私は|私の(?:判断|意見)では"
        r"|比較すると|比べると|(?:最終)?(?:判定|判断)(?:は|:)?|ゆえに|このため|それゆえ|私としては"
        r"|どちらかと(?:言え|いえ)ば"
    ),
    better=(
        rf"SUBJECT\s*(?:の(?:方|ほう|回答|答え|回答の(?:方|ほう)))?\s*(?:が|は"
        rf"|のが)\s*、?\s*{JA_BETTER}{JA_END}",
        rf"OTHER\s*(?:の(?:回答|答え))?より(?:も|は)?\s*、?\s*SUBJECT\s*(?:の(?:方|ほう|回答|回答の(?:方"
        rf"|ほう)))?\s*(?:が|は)\s*{JA_BETTER}{JA_END}",
        rf"SUBJECT\s*(?:の(?:方|ほう|回答|回答の(?:方|ほう)))?\s*(?:が|は)\s*、?\s*OTHER\s*(?:の(?:回答"
        rf"|答え))?より(?:も)?\s*{JA_BETTER}{JA_END}",
        r"SUBJECT\s*(?:の(?:方|ほう|回答))?\s*を\s*(?:選びます|選択します|選ぶ|選択する|選びました"
        r"|選択しました|推します|支持します|推奨します|選好します"
        r"|勝者と(?:します|する|判断します|判定します)|選択|選出します|勝ちとします|支持する)",
        r"(?:(?:より|最も|もっと)?(?:良い|よい|優れた|優れている|すぐれた|好ましい|適切な|ベターな)(?:回答"
        r"|答え|方|ほう|の|応答)?)"
        rf"(?:の(?:方|ほう))?は\s*、?\s*SUBJECT\s*{JA_END}",
        rf"(?:私の)?(?:最終(?:的な)?)?(?:勝者|判定|結論|判断|結果|答え|選択|勝ち|評価)は\s*、?\s*SUBJECT\s*"
        rf"(?:の勝ち|の勝利)?{JA_END}",
        rf"SUBJECT\s*の(?:勝ち|勝利){JA_END}",
    ),
    worse=(
        rf"SUBJECT\s*(?:の回答)?\s*(?:が|は)\s*、?\s*OTHER\s*(?:の回答)?(?:より(?:も)?|に|に比べて?)\s*"
        rf"(?:明らかに|やや|少し|わずかに)?"
        rf"(?:劣り|劣って(?:い|お)り?|劣る|及びません|及ばない|悪い|負けて(?:い|お)り?)(?:ます"
        rf"|る)?{JA_END}",
    ),
    ties=(
        r"(?:(?:両者|両方|双方|どちらも|[AB]と[AB]|二つの回答|両(?:方の)?回答|結果|勝負|判定|結論)(?:の"
        r"(?:質|品質|回答))?(?:は|とも|とも同じく)?)?\s*、?"
        r"(?:ほぼ|完全に|全く)?(?:引き分け|引分け?|同点|同等|互角|甲乙つけがたい|優劣(?:は|が)?"
        r"(?:つけがたい|ない|ありません))" + JA_END
    ),
    reasons=r"なぜなら|理由は|というのも",
    doubts=r"もし|なら|ただし|しかし|が、|とは|ない|ません|かも|場合|れば|か$|限り|違",
)

KO_NOUN = r"(?:답변|응답|답안|답|모델|어시스턴트|선택지|보기|후보|옵션|대답)"
KO_PARTICLE = r"(?:의\s*(?:답변|응답|답|대답))?\s*(?:쪽)?(?:이|가|은|는)?"
KO_BETTER = (
    r"(?:(?:더|조금|약간|훨씬|명확히|분명히|확실히|전반적으로|전체적으로|가장|좀|더욱)\s*)*"
    r"(?:낫습니다|낫다|나음|나아요|좋습니다|좋다|좋음|좋아요|우수합니다|우수하다|우수함|뛰어납니다"
    r"|뛰어나다|뛰어남|훌륭합니다|훌륭하다|적절합니다"
    r"|적절하다|승리합니다|승리했습니다|승리|이겼습니다|이깁니다|이긴다|승|우세합니다|낫다고 (?:생각합니다"
    r"|판단합니다|봅니다)"
    r"|좋다고 (?:생각합니다|판단합니다|봅니다)|우수하다고 (?:생각합니다|판단합니다|봅니다)"
    r"|(?:나은|좋은|우수한|뛰어난)\s*(?:답변|응답|답|대답)(?:입니다|이다|이라고 (?:생각합니다|판단합니다)))"
)
KO_END = (
    r"\s*(?:입니다|이다|이에요|예요|임|이라고 (?:생각합니다|판단합니다)|라고 (?:생각합니다"
    r"|판단합니다)|로 (?:판단합니다|결정합니다|하겠습니다))?"
)
KOREAN = Grammar(
    language="Korean",
    script=rf"[{HANGUL}]",
    nouns=KO_NOUN,
    openers=(
        r"따라서|그러므로|결론적으로|결론은|결론|종합적으로(?: 볼 때| 보면)?|종합하면|종합해 ?보면"
        r"|전반적으로|전체적으로|최종적으로|결국|그래서"
        r"|저는|나는|제 (?:판단|생각)(?:으로는|에는|은)|제가 보기에|비교하면|비교해 ?보면"
        r"|두 답변을 비교하면|즉|이러한 이유로|최종 판정(?:은)?|판정"
    ),
    better=(
        rf"SUBJECT\s*{KO_PARTICLE}\s*{KO_BETTER}",
        rf"SUBJECT\s*{KO_PARTICLE}\s*OTHER\s*(?:의 답변)?보다(?:는)?\s*{KO_BETTER}",
        rf"OTHER\s*(?:의 답변)?보다(?:는)?\s*SUBJECT\s*{KO_PARTICLE}\s*{KO_BETTER}",
        r"SUBJECT\s*(?:의 답변)?\s*(?:을|를)\s*(?:더\s*)?(?:선택합니다|선택하겠습니다|선택한다"
        r"|선택했습니다|선택|고릅니다|고르겠습니다|추천합니다|선호합니다"
        r"|선호한다|뽑겠습니다|뽑습니다|지지합니다|승자로 (?:판단합니다|선택합니다|선정합니다))",
        rf"(?:더|가장)\s*(?:나은|좋은|우수한|뛰어난|훌륭한|적절한)\s*(?:답변|응답|답|대답|쪽|것)?(?:은|는"
        rf"|이)\s*SUBJECT{KO_END}",
        rf"(?:제\s*|나의\s*)?(?:최종\s*)?(?:승자|판정|결론|판단|선택|정답|답|결과|결정|우승자|승리자)(?:은"
        rf"|는|이)\s*SUBJECT{KO_END}",
        rf"SUBJECT\s*의 승리{KO_END}",
    ),
    worse=(
        rf"SUBJECT\s*{KO_PARTICLE}\s*OTHER\s*(?:의 답변)?보다\s*(?:더\s*|조금\s*|약간\s*|훨씬\s*)?"
        r"(?:못합니다|못하다|떨어집니다|떨어진다|나쁩니다|나쁘다|열등합니다|열등하다)",
    ),
    ties=(
        r"(?:(?:두|양쪽|양)\s*(?:답변|응답)|[AB](?:와|과|랑)\s*[AB]|둘 다|둘|양쪽|결과|판정|결론)?\s*"
        r"(?:의 (?:품질|수준))?\s*(?:은|는|이|가|모두)?\s*"
        r"(?:거의\s*|서로\s*)?(?:무승부|동점|비김|비겼습니다|동등합니다|동등하다|막상막하"
        r"|우열을 가릴 수 없습니다|똑같이 좋습니다)" + KO_END
    ),
    reasons=r"왜냐하면|이유는|때문에",
    doubts=r"만약|하지만|그러나|다만|경우|면\b|않|아니|없|지만|수도|일지도",
)

LATIN = r"[a-z]"
DE_ADVERB = (
    r"(?:(?:insgesamt|deutlich|klar|eindeutig|etwas|leicht|geringfügig|wesentlich|viel|weitaus|bei weitem"
    r"|alles in allem|meiner Meinung nach|daher|somit|auch|hier|die|der|das|eine?|ganz)\s+)*"
)
DE_NOUN = r"(?:(?:die |der |das )?(?:Antwort|Option|Modell|Assistent(?:in)?|Kandidat|Variante|Ausgabe))"
DE_GOOD = (
    r"(?:besser|überlegen|überzeugender|stärker|vorzuziehen|bessere (?:Antwort|Wahl|Option|Variante)"
    r"|beste (?:Antwort|Wahl|Option)|am besten|Gewinner(?:in)?|Sieger(?:in)?)"
)
GERMAN = Grammar(
    language="German",
    script=LATIN,
    nouns=DE_NOUN,
    openers=(
        r"insgesamt|daher|deshalb|somit|folglich|also|alles in allem|abschließend|zusammenfassend"
        r"|letztlich|letztendlich"
        r"|meiner (?:Meinung|Ansicht) nach|ich (?:finde|denke|meine|glaube),? dass|mein (?:Urteil|Fazit)"
        r"(?: ist| lautet)?"
        r"|(?:Endg?ültiges )?(?:Urteil|Fazit|Ergebnis|Entscheidung)|im Vergleich|im Ergebnis|unterm Strich"
    ),
    better=(
        rf"SUBJECT\s+ist\s+{DE_ADVERB}{DE_GOOD}(?:,?\s+(?:als|gegenüber)\s+OTHER)?",
        rf"ist\s+SUBJECT\s+{DE_ADVERB}{DE_GOOD}(?:,?\s+(?:als|gegenüber)\s+OTHER)?",
        rf"SUBJECT\s+ist\s+OTHER\s+{DE_ADVERB}(?:überlegen|vorzuziehen)",
        rf"SUBJECT\s+{DE_ADVERB}(?:besser|überzeugender|stärker)(?:\s+als\s+OTHER)?\s+ist",
        rf"SUBJECT\s+(?:gewinnt|siegt|hat gewonnen|schneidet {DE_ADVERB}besser ab|überzeugt mehr"
        rf"|liegt vorne?)",
        r"SUBJECT\s+(?:übertrifft|schlägt)\s+OTHER",
        r"(?:ich\s+)?(?:wähle|bevorzuge|nehme|entscheide mich für|stimme für|tendiere zu)\s+SUBJECT",
        r"(?:ich\s+)?würde\s+(?:ich\s+)?(?:mich für\s+)?SUBJECT\s+(?:wählen|bevorzugen|entscheiden|nehmen)",
        r"(?:ich\s+)?ziehe\s+(?:ich\s+)?SUBJECT\s+vor",
        r"(?:ich\s+)?halte\s+(?:ich\s+)?SUBJECT\s+für\s+(?:die\s+)?(?:besser|bessere|stärker|überlegen)"
        r"(?:\s+(?:Antwort|Option))?",
        r"(?:die\s+|der\s+)?(?:bessere|beste|überlegene|stärkere|überzeugendere)\s+(?:Antwort|Option|Wahl"
        r"|Variante)\s+ist\s+"
        r"(?:daher\s+|somit\s+|insgesamt\s+|klar\s+|eindeutig\s+)?SUBJECT",
        r"besser\s+ist\s+(?:daher\s+|somit\s+|insgesamt\s+)?SUBJECT",
        r"(?:der\s+|die\s+)?(?:Gewinner(?:in)?|Sieger(?:in)?)\s+ist\s+(?:daher\s+|somit\s+)?SUBJECT",
    ),
    worse=(
        rf"SUBJECT\s+ist\s+{DE_ADVERB}(?:schlechter|unterlegen|schwächer|weniger (?:gut|hilfreich"
        rf"|überzeugend))(?:\s+als\s+OTHER)?",
        r"SUBJECT\s+ist\s+(?:insgesamt\s+)?nicht\s+(?:ganz\s+)?so\s+gut\s+wie\s+OTHER",
        r"SUBJECT\s+ist\s+OTHER\s+(?:klar\s+|deutlich\s+)?unterlegen",
        r"SUBJECT\s+(?:verliert|unterliegt)(?:\s+gegen\s+OTHER)?",
    ),
    ties=(
        r"(?:es ist (?:ein\s+)?|ein\s+)?(?:unentschieden|gleichstand|remis)"
        r"|(?:beide(?: antworten)?|die (?:beiden )?antworten|(?:antwort\s+)?[AB] und (?:antwort\s+)?[AB]"
        r"|sie)\s+sind\s+(?:insgesamt\s+|etwa\s+|nahezu\s+)?"
        r"(?:gleich gut|gleichwertig|ebenbürtig|gleichauf)"
    ),
    reasons=r"weil|da|denn|aufgrund|wegen",
    doubts=(
        r"\b(?:wenn|falls|sofern|aber|jedoch|allerdings|nur|nicht wirklich|oder|obwohl|wobei|außer"
        r"|vorausgesetzt|nein)\b"
    ),
)

FR_NOUN = r"(?:(?:la |le |l['’])?(?:réponse|option|modèle|assistante?|candidat))"
FR_ADVERB = (
    r"(?:(?:globalement|nettement|clairement|légèrement|largement|bien|un peu|donc|aussi|beaucoup"
    r"|dans l['’]ensemble"
    r"|sensiblement|la|le|l['’]|une|un)\s*)*"
)
FR_GOOD = (
    r"(?:meilleure?(?: réponse| option| choix)?|supérieure?|préférable|plus convaincante?|gagnante?"
    r"|vainqueur)"
)
FRENCH = Grammar(
    language="French",
    script=LATIN,
    nouns=FR_NOUN,
    openers=(
        r"en conclusion|donc|ainsi|par conséquent|globalement|au final|finalement|en somme"
        r"|dans l['’]ensemble|pour conclure|en résumé"
        r"|à mon avis|selon moi|je (?:pense|trouve|considère|dirais|juge|conclus) que|mon verdict(?: est)?"
        r"|au total|tout compte fait"
        r"|(?:verdict|conclusion|décision|résultat)(?: finale?)?"
    ),
    better=(
        rf"SUBJECT\s+est\s+{FR_ADVERB}{FR_GOOD}(?:\s+(?:que|à|par rapport à)\s+(?:celle de\s+)?OTHER)?",
        r"SUBJECT\s+(?:gagne|l['’]emporte|a gagné|remporte la comparaison)(?:\s+(?:sur|contre)\s+OTHER)?",
        r"SUBJECT\s+(?:surpasse|dépasse|bat)\s+OTHER",
        r"(?:je|j['’])\s*(?:choisis|préfère|sélectionne|retiens|vote pour|opte pour|penche pour|favorise"
        r"|choisirais|préférerais|opterais pour)\s+SUBJECT",
        r"(?:c['’]est\s+)?(?:la\s+|le\s+)?(?:meilleure?|gagnante?|vainqueur)(?:\s+(?:réponse|option"
        r"|choix))?\s+est\s+(?:donc\s+|clairement\s+)?SUBJECT",
        r"mon\s+(?:choix|verdict|vote)\s+(?:est|va à|se porte sur)\s+SUBJECT",
        r"c['’]est\s+SUBJECT\s+(?:qui\s+)?(?:gagne|l['’]emporte|est\s+(?:la\s+)?meilleure?)",
    ),
    worse=(
        rf"SUBJECT\s+est\s+{FR_ADVERB}(?:moins bonne?|inférieure?|pire|plus faible|moins convaincante?"
        rf"|moins utile)"
        r"(?:\s+(?:que|à)\s+OTHER)?",
        r"SUBJECT\s+n['’]est\s+pas\s+(?:aussi|si)\s+bonne?\s+que\s+OTHER",
        r"SUBJECT\s+(?:perd)(?:\s+(?:face à|contre)\s+OTHER)?",
    ),
    ties=(
        r"(?:c['’]est\s+|il y a\s+)?(?:une?\s+)?(?:[ée]galit[ée](?:\s+parfaite)?|match nul|ex[ -]?(?:æ"
        r"|ae)quo)"
        r"|(?:les deux(?: réponses| options)?|elles|(?:les réponses )?[AB] et [AB])\s+(?:sont\s+"
        r"(?:globalement\s+)?(?:équivalentes|égales|ex[ -]?(?:æ|ae)quo"
        r"|aussi bonnes l['’]une que l['’]autre|de qualité égale)|se valent)"
    ),
    reasons=r"car|parce qu|puisqu|en raison",
    doubts=(
        r"\b(?:si|sauf|mais|cependant|toutefois|seulement|uniquement|ou|pourtant|bien que|quoique|non"
        r"|à condition)\b"
    ),
)

ES_NOUN = r"(?:(?:la |el )?(?:respuesta|opción|modelo|asistente|candidat[oa]))"
ES_ADVERB = (
    r"(?:(?:en general|claramente|ligeramente|mucho|bastante|un poco|algo|notablemente|también"
    r"|por lo tanto|sin duda"
    r"|la|el|una|un)\s+)*"
)
ES_GOOD = (
    r"(?:mejor(?: respuesta| opción| elección)?|superior|preferible|más convincente|ganador[a]?|vencedor[a]?)"
)
SPANISH = Grammar(
    language="Spanish",
    script=LATIN,
    nouns=ES_NOUN,
    openers=(
        r"en conclusión|por (?:lo )?tanto|así que|en general|en resumen|finalmente|en definitiva"
        r"|en mi opinión|a mi juicio|a mi parecer"
        r"|creo que|pienso que|considero que|concluyo que|mi veredicto(?: es)?(?: que)?|por consiguiente"
        r"|en conjunto|al final"
        r"|(?:veredicto|conclusión|decisión|resultado)(?: final)?"
    ),
    better=(
        rf"SUBJECT\s+es\s+{ES_ADVERB}{ES_GOOD}(?:\s+(?:que|a)\s+(?:la\s+)?OTHER)?",
        r"SUBJECT\s+(?:gana|vence|ha ganado|se impone)(?:\s+(?:a|sobre)\s+OTHER)?",
        r"SUBJECT\s+supera\s+a\s+OTHER",
        r"(?:yo\s+)?(?:elijo|prefiero|escojo|selecciono|opto por|me quedo con|voto por|me inclino por"
        r"|elegiría|elegiria|preferiría)\s+(?:a\s+)?SUBJECT",
        r"(?:la\s+|el\s+|lo\s+)?(?:mejor|ganador[a]?|vencedor[a]?|superior)(?:\s+(?:respuesta|opción"
        r"|elección))?\s+es\s+(?:claramente\s+|por lo tanto\s+)?SUBJECT",
        r"mi\s+(?:elección|veredicto|voto|preferencia)\s+es\s+(?:para\s+)?SUBJECT",
        r"gana\s+SUBJECT",
    ),
    worse=(
        rf"SUBJECT\s+es\s+{ES_ADVERB}(?:peor|inferior|menos buena?|menos útil|menos convincente|más débil)"
        rf"(?:\s+(?:que|a)\s+OTHER)?",
        r"SUBJECT\s+no\s+es\s+tan\s+buen[oa]\s+como\s+OTHER",
        r"SUBJECT\s+pierde(?:\s+(?:ante|contra|frente a)\s+OTHER)?",
    ),
    ties=(
        r"(?:es\s+|hay\s+)?(?:un\s+)?empate"
        r"|(?:ambas(?: respuestas)?|las dos(?: respuestas)?|(?:las respuestas )?[AB] y [AB])\s+(?:son"
        r"|están)\s+(?:igualmente buenas|igual de buenas|equivalentes"
        r"|iguales|empatadas|de igual calidad)"
    ),
    reasons=r"porque|ya que|puesto que|debido a|dado que",
    doubts=r"\b(?:si|salvo|pero|sin embargo|aunque|solo|sólo|solamente|o|excepto|no obstante|siempre que)\b",
)

RU_NOUN = r"(?:ответ[ау]?|вариант[ау]?|модел[ьи]|ассистент[ау]?|кандидат[ау]?|опци[яию])"
RU_ADVERB = (
    r"(?:(?:в целом|явно|значительно|немного|чуть|гораздо|намного|заметно|несколько|однозначно|всё же"
    r"|все же|является|был[аи]?"
    r"|это|более)\s+)*"
)
RUSSIAN = Grammar(
    language="Russian",
    script=rf"[{CYRILLIC}]",
    nouns=RU_NOUN,
    openers=(
        r"в целом|таким образом|итак|поэтому|следовательно|в итоге|в результате|на мой взгляд"
        r"|по моему мнению|я (?:считаю|думаю|полагаю),? что"
        r"|в заключение|подводя итог|итого|значит|по совокупности|(?:окончательный |итоговый |мой )?"
        r"(?:вердикт|вывод|итог|решение|ответ)|сравнив ответы"
    ),
    better=(
        rf"SUBJECT\s*[—–-]?\s*{RU_ADVERB}(?:лучше|предпочтительнее|сильнее|убедительнее|лучший(?:\s+"
        rf"(?:ответ|вариант))?|победитель)(?:(?:\s*,?\s*чем(?:\s+у)?)?\s+OTHER)?",
        r"SUBJECT\s+(?:выигрывает|побеждает|выиграл[аи]?|победил[аи]?)(?:\s+(?:у\s+)?OTHER)?",
        r"SUBJECT\s+(?:явно\s+|значительно\s+)?превосходит\s+OTHER",
        r"(?:я\s+)?(?:выбираю|предпочитаю|голосую за|склоняюсь к|отдаю (?:предпочтение|победу|голос)"
        r"|выбрал[а]?(?: бы)?|предпочел[а]?(?: бы)?)\s+SUBJECT",
        r"(?:лучший|наилучший|более (?:качественный|полный и точный)|предпочтительный)\s+(?:ответ"
        r"|вариант)\s*(?:[—–-]|это|:)?\s*(?:это\s+)?SUBJECT",
        r"(?:победител[ьем]+|мой выбор|победа)\s*(?:[—–-]|это|за|у|:)\s*(?:это\s+)?SUBJECT",
    ),
    worse=(
        rf"SUBJECT\s*[—–-]?\s*{RU_ADVERB}(?:хуже|слабее|менее (?:полезен|точен|убедителен|полезный"
        rf"|удачный))(?:(?:\s*,?\s*чем(?:\s+у)?)?\s+OTHER)?",
        r"SUBJECT\s+(?:уступает|проигрывает)(?:\s+OTHER)?",
        r"SUBJECT\s+не\s+(?:так|настолько)\s+(?:хорош[аои]?|полезен)\s*,?\s*как\s+OTHER",
    ),
    ties=(
        r"(?:это\s+)?ничья"
        r"|(?:оба(?: ответа| варианта)?|ответы(?: [AB] и [AB])?|[AB] и [AB])\s+(?:в целом\s+|примерно\s+)?"
        r"(?:одинаково хороши|равноценны|равны|одинаковы|эквивалентны)"
    ),
    reasons=r"потому что|так как|поскольку|ибо|из-за",
    doubts=r"\b(?:если|но|однако|только|лишь|или|хотя|при условии|кроме|нет|впрочем)\b",
)

GRAMMARS = (CHINESE, JAPANESE, KOREAN, GERMAN, FRENCH, SPANISH, RUSSIAN)


@cache
def forms_of(grammar: Grammar) -> list[tuple[re.Pattern[str], bool]]:
    """The claims of a grammar, and whether the side they speak of wins; compiled when a text needs them."""
    return [
        (sentence_pattern(grammar, form), wins)
        for forms, wins in ((grammar.better, True), (grammar.worse, False))
        for form in forms
    ]


@cache
def tie_of(grammar: Grammar) -> re.Pattern[str]:
    """What a grammar says where nobody wins."""
    return sentence_pattern(grammar, f"(?:{grammar.ties})")


CONCLUDES_ABROAD = re.compile(
    r"综上|綜上|总的来说|总体|综合|因此|所以|最终|总之|したがって|よって|以上|総合|結論|最終|따라서|결론"
    r"|종합|최종|insgesamt|daher"
    r"|deshalb|somit|fazit|en conclusion|donc|globalement|au final|finalement|en conclusión|por "
    r"(?:lo )?tanto|en general"
    r"|в целом|таким образом|итак|поэтому|в итоге",
    re.I,
)


def is_of(grammar: Grammar, sentence: str) -> bool:
    """Whether a sentence may be in a grammar's language: by its script, and by no other one being in it."""
    if FOREIGN_SCRIPT.search(sentence) or not re.search(grammar.script, sentence, re.I):
        return False
    foreign = {"Chinese": rf"[{KANA}{HANGUL}{CYRILLIC}]", "Japanese": rf"[{HANGUL}{CYRILLIC}]"}
    foreign |= {"Korean": rf"[{HAN}{KANA}{CYRILLIC}]", "Russian": rf"[{HAN}{KANA}{HANGUL}]"}
    return not re.search(foreign.get(grammar.language, rf"[{HAN}{KANA}{HANGUL}{CYRILLIC}]"), sentence)


def claims_abroad(sentence: str) -> set[str]:
    """The sides that a sentence in any other language claims, its signs of full width made plain.

    >>> claims_abroad("综上所述,B比A更好。"), claims_abroad("A 并不比 B 更好。")
    ({'B'}, set())
    """
    sides: set[str] = set()
    spoken = [grammar for grammar in GRAMMARS if is_of(grammar, sentence)]
    for grammar in spoken:
        for pattern, wins in forms_of(grammar):
            found = pattern.fullmatch(sentence)
            if not found or found.groupdict().get("o") == found["s"] or is_taken_back(grammar, found):
                continue
            sides.add(found["s"] if wins else OTHER_SIDE[found["s"]])
    if not sides:
        for grammar in spoken:
            found = tie_of(grammar).fullmatch(sentence)
            if found and not is_taken_back(grammar, found):
                sides.add("Tie")
    return sides


def is_taken_back(grammar: Grammar, found: re.Match[str]) -> bool:
    """Whether what follows a claim makes it depend on something, or turns to the other side."""
    return bool(re.search(grammar.doubts, found["rest"] or "", re.I))


# ---------------------------------------------------------------------------
# A whole text

LONGEST_SENTENCE = 1000  # characters; searching grows with their square, and no judge's sentence is so long
SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|(?<=[。])|(?<=[!?;])(?=[^\x00-\x7f\"'*)])|\n+")
RETRACTION = re.compile(
    r"\W*(?:wait|no\b|hmm|actually\b|on second thought|correction|scratch that|不对|不對|不是|等等|等一下"
    r"|错了|いや|いいえ|違い?ます?|違う|아니|잠깐"
    r"|nein\b|halt\b|moment\b|non\b|attendez|espera|нет\b|стоп|подождите)",
    re.I,
)


def claimed_side(text: str) -> str | None:
    """The winner that prose claims ("A is better than B") if its conclusions, or all its claims, agree.

    None where it claims none, or both, or takes one back, or is not written in sentences.
    """
    concluded: set[str] = set()
    claimed: set[str] = set()
    for sentence in filter(None, map(str.strip, SENTENCE_END.split(text))):
        if len(sentence) > LONGEST_SENTENCE:
            return None
        if claimed and RETRACTION.match(sentence):
            return None
        if re.search(r"\?[\W]*\Z", sentence):
            continue
        sides = claims_abroad(sentence) or english_claims(sentence)
        claimed |= sides
        if CONCLUDES.search(sentence) or CONCLUDES_ABROAD.search(sentence):
            concluded |= sides
    for chosen in (concluded, claimed):
        if len(chosen) == 1:
            return chosen.pop()
        if chosen:
            return None
    return None
