"""Read the verdict out of a judge's reply: A, B or Tie, or None where it states none.

For replies that say more than one word: labels in brackets, "Final verdict: ...", JSON whole or cut off,
markup, thinking text, prose that claims a winner (claims.py). What a judge quotes does not count, of several
labels the final verdict does, and there is no default: a reply that cannot be read is no tie. What is not
surely read stays unread: it is asked again and counted, where a verdict for the wrong side is never noticed.
"""

from __future__ import annotations

import html
import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

from edgebench.judging.claims import (
    CRITERION,
    GRAMMARS,
    HAN,
    HANGUL,
    KANA,
    NOT_ENGLISH,
    NOUN,
    OTHER_SIDE,
    claimed_side,
)
from edgebench.judging.points import side_with_more_points
from edgebench.prompts.thinking import without_reasoning

# Every rule below returns a side, AMBIGUOUS (stop looking), or None (try the next rule).
AMBIGUOUS = "?"
# In every language that claims.py reads, a letter may stand beside a noun, and a verdict behind an anchor.
NOUNS = "|".join([NOUN, *(grammar.nouns for grammar in GRAMMARS)])
TIE = (
    r"(?:(?:an? |it's an? )?(?:tied?|draw|equal(?:ity)?)|[ée]galit[ée]|ex[ -]?(?:æ|ae)quo|match nul|"
    r"(?:un )?empate"
    r"|(?:ein )?unentschieden|gleichstand|remis|平局|平手|打平|引き分け|引分け?|同点|互角|무승부|동점|비김"
    r"|ничья|pareggio|gelijkspel)"
)
LABEL = (
    rf"(?:\[\[(?P<mark>A|B|Tie)\]\]|(?P<tie>(?<![A-Za-z]){TIE}(?![A-Za-z]))"
    r"|(?<![A-Za-z0-9])(?P<l>[AB])\s*(?P<op>[<>=])[<>=]?\s*(?P<r>[AB])(?![A-Za-z0-9])"
    rf"|(?<![A-Za-z0-9])(?:the )?(?P<noun>(?:{NOUNS})[ _]*)?\(?(?<![A-Za-z0-9])(?P<side>[AB])"
    rf"(?![A-Za-zÀ-ɏ0-9_]))"
)
# FastChat's [[C]] is a tie; so are Arena's [[A=B]] and "[Tie]". A bare C is no verdict.
BRACKETED = re.compile(
    rf"(?<![A-Za-z0-9])(?:\[\[\s*(?P<c>C)\s*\]\]|\[{{1,2}}\s*{LABEL}[\s)]*\]{{1,2}})", re.I
)
ANCHOR = (
    r"(?:\b(?:verdict|winner|decision|judge?ment|conclusion|result|choice|prefer(?:ence|red)|final|overall"
    r"|(?<!correct )(?<!right )(?<!true )answer|better|pick|vote)\b"
    rf"|(?<![{HAN}{KANA}])(?:最终|最終|最后|最後|我的|综合|綜合|总体|整体|评判|评审|判断|評価|総合|私の|の"
    rf"|的な?"
    rf"|因此|所以|故|判定|评估|裁判){{0,4}}"
    r"(?:判断|判斷|判定|裁决|裁決|裁定|结论|結論|结果|結果|判决|判決|胜者|勝者|获胜者|獲勝者|赢家|优胜者"
    r"|胜出者|选择|選擇|選択|答案|答え|胜方|勝ち"
    r"|更好的?(?:回答|答案)|更优的?(?:回答|答案)|最佳(?:回答|答案)|较好的?(?:回答|答案)|より良い回答)"
    rf"|(?<![{HANGUL}])(?:최종\s*|종합\s*|나의\s*|제\s*)?(?:판정|결론|판단|승자|결과|정답|선택|결정|평결"
    rf"|우승자|답변|답|더 나은 답변|더 좋은 답변)"
    r"|\b(?:(?:der |die |das |mein |das endgültige |endgültiges )?(?:gewinner(?:in)?|sieger(?:in)?|urteil"
    r"|endurteil|gesamturteil|fazit"
    r"|entscheidung|ergebnis|endergebnis|wahl|schlussfolgerung|verdikt|(?:bessere |beste "
    r"|endgültige )?antwort)"
    r"|(?:le |la |mon )?(?:gagnante?|vainqueur|verdict|décision|résultat|(?:meilleure )?réponse|choix"
    r"|jugement)(?: final[e]?)?"
    r"|(?:el |la |mi )?(?:ganador[a]?|vencedor[a]?|veredicto|decisión|conclusión|resultado|"
    r"(?:mejor )?respuesta|elección|juicio)(?: final)?"
    r"|(?:итоговый |окончательный |мой )?(?:победитель|вердикт|решение|вывод|итог|ответ|выбор|результат"
    r"|заключение)|лучший ответ"
    r"|vencedor|veredito|(?:melhor )?resposta|vincitore|verdetto|(?:migliore )?risposta|risultato|winnaar"
    r"|oordeel)\b)"
)
# What may stand between "verdict:" and its label; no "not" among it.
FILLER = (
    r"(?:[^\w\[]|\b(?:is|was|are|be|that|therefore|thus|hence|the|my|our|it|this|goes|go|to|for|in|favou?r|of"
    r"|final|overall|clearly|winner|verdict|better|preferred|best|choice|one|text|quality"
    r"|die|der|das|la|le|el|es|est|ist|это)\b){0,40}?"
)
STATED = (
    r"(?:[\s\"'*]*[]:=|>)–—-]|\s+(?:is|was|goes to|ist|lautet|geht an|est|es|это)\b|\s*(?:是|为|為|应为|は"
    r"|은|는|이)\s*"
    r"|\s*\n|\s*(?=\[\[))"
)
ANCHORED = re.compile(ANCHOR + STATED + FILLER + LABEL, re.I)
# Behind a label that an anchor names: its end, a mark, a reason, or praise. All else unbinds it.
CLOSERS = r"[\"'“”»」』》)\]]*"
COPULA = (
    r"(?:です|だ|である|とします|とする|と(?:判断|判定|結論(?:づけ|付け)|考え)(?:し)?ます|입니다|이다"
    r"|이에요|예요|임|(?:으로|로) (?:판단|결정)합니다"
    r"|了|更好|更优|更佳|胜出|勝出|获胜|胜|の勝ち|の方が良い)?(?:です|だ)?"
)
PRAISED = (
    r"\s*,?\s+(?:(?:because|since|as|for|due|by|over|wins?|won|with|overall|here|in (?:my|this|favou?r"
    r"|terms of quality)"
    r"|weil|da|denn|car|parce|porque|ya que|потому|так как)\b"
    r"|(?:is|was|has|gives?|gave|offers?|provide[sd]?)\s+(?:(?-i:an?)\s|the\s|\w+ly\s|much\s|far\s|also\s"
    r"|a bit\s){0,4}"
    r"(?:better|superior|stronger|preferred|preferable|best|(?:overall )?winner|clearer|correct"
    r"|more (?:helpful|accurate|complete|correct|useful|informative|comprehensive|concise|detailed|convincing"
    r"|factual|thorough|relevant|precise|clear))\b(?! (?:at|than or)\b)"
    r"|(?:much |slightly |clearly )?(?:better|superior|stronger)\b)"
)
# Before an anchor: what is announced is the loser, what the question asks for, or what somebody says.
NOT_A_VERDICT = re.compile(
    r"\b(?:worse|worst|weaker|weakest|inferior|losing|poorer|less \w+|(?:in)?correct|right|wrong|true"
    r"|expected"
    r"|reference|question|both|each|says?|said|states?|claims?|told|asks?|not|n['’]t|schlechtere|pire|peor"
    r"|худший)\b"
    r"|[差劣]的?|正确|參考|参考|题目|不|并非|標準|标准",
    re.I,
)
NEGATED = (
    r"(?:not|no|never|isn['’]t|worse|inferior|weaker|loses|lost|less|fails?|lacks?|nicht|kein|schlechter"
    r"|non|pas|moins|pire"
    r"|peor|menos|не|нет|хуже|不|没|差|劣|ない|않|못|아니|if|unless|when|only if|wenn|falls|si|если|如果"
    r"|若|除非)"
)
BOUND = re.compile(
    rf"{CLOSERS}(?:['’]s)?(?:\s*(?:{NOUNS}))?{CLOSERS}\s*{COPULA}{CLOSERS}(?:\s*(?:\Z|\n|[!;。|<]|\.(?!\.\.))"
    rf"|(?:\s*[,(:]|\s*[–—]|\s+-)\s*(?!{NEGATED}(?![\w]))|\s*[,(–—-]\s*not (?:\[\[)?(?:the other"
    rf"|{NOUN} )?[AB]?\b"
    rf"|\s*(?:因为|因為|由于)|{PRAISED})",
    re.I,
)
# What a judge may say before a label that is all it says.
OWN_WORDS = re.compile(
    r"^(?:it['’]s|it is|this is|(?:definitely|clearly|probably|going with)"
    r"|i(?:['’]d| would|['’]ll)? (?:pick|choose|prefer|select|vote(?: for)?|go with|say|return)"
    r"|i(?:['’]m| am) (?:going with|choosing|picking)) ",
    re.I,
)
REPLACED = re.compile(
    r"(?:\A|[\n>]|(?P<head>[^\n:>.!?。]*)[:：]|\b(?:actually|no|rather)\b,?)[^\S\n]*"
    rf"(?P<label>(?:(?:the )?(?:{NOUNS}) ?)?\W?(?:A|B|Tie)\W*)\Z"
)
LOSING_HEAD = re.compile(
    r"\b(?:runner|second|loser|losing|worse|weaker|rejected|not chosen|other)|[差劣败輸输]", re.I
)
# A line that names the loser and nothing else. "Runner-up" is not among these: of three it may be the second.
LOSER_LINE = re.compile(
    rf"^[^\w\n]*(?:the |le |la |el |der |die )?"
    rf"(?:loser|(?:worse|worst|weaker|inferior|losing)(?: {NOUN}| one)?"
    r"|verlierer(?:in)?|schlechtere antwort|perdante?|perdedora?|perdente|verliezer|проигравший|输家|輸家"
    r"|败者|敗者|败方|敗方|패자)(?:[^\S\n]*[:=]|[^\S\n]+(?:is|ist|est|es)\b|[^\S\n]*[是为は])[^\S\n]*"
    rf"(?:{NOUNS})?[^\w\n]*(?P<side>(?-i:[AB]))[^\w\n]*$",
    re.I | re.M,
)
OPENED = re.compile(r"\W*(?:A|B|Tie)\b\W*?\n[ \t]*\n")
REASON = "|".join(grammar.reasons for grammar in GRAMMARS)
CRITERION_LINE = re.compile(
    rf"^[^\w\n]*(?:\d+\W+)?(?:{CRITERION}|事实性?|準確性|准确性|有用性|有帮助性|结构|結構|简洁性?|簡潔性?"
    rf"|正確性|構成|簡潔さ|사실성|유용성|구조|간결성)"
    r"\b[^:=|\n]{0,30}[:=|-][^\n.]{0,40}$",
    re.I | re.M,
)
# After a label: a choice of labels ("A or B"), a condition ("A if ...") or a denial ("A is worse").
UNBINDS = re.compile(
    r"[\s\"'\])]*(?:(?:[,/|&]|\b(?:or|and|vs|oder|und|ou|et|o|y|или|и)\b|或|和|または|또는)[\s,]*"
    r"(?:or\s+)?[\"'\[(]*"
    rf"(?:(?:{NOUNS}) ?)?(?:A|B|C|Tie)(?![A-Za-z])|if\b)"
    rf"|(?:['’]s)?(?: {NOUN})? (?:is|was|does|did)(?:n't| \w*ly)? ?(?:not|worse|inferior|weaker|less)\b",
    re.I,
)
# A mark that is quoted, denied, compared with or part of an instruction is not the judge's own.
NOT_OWN = re.compile(
    r"(?:\b(?:not|n['’]t|says?|said|outputs?|returns?|prints?|writes?|contains?|answer with|than|over"
    r"|beats?|against|instead of"
    r"|rather than|outperforms?|versus|vs\.?|from|nor|neither|reject(?:s|ed)?|if|unless|als|que|чем)|不如"
    r"|比|优于)\W*"
    rf"(?:{NOUN}\W*)?\Z",
    re.I,
)
MARK_LOST = re.compile(
    r"[\s\"']*(?:(?:is|was|are)\s+(?:\w+\s+){0,2}?(?:not|worse|inferior|weaker|less|wrong|incorrect)\b|"
    r"(?:loses|lost|fails)\b"
    r"|(?:does|did|can|could|would)(?:n['’]t| not)\b|(?:isn|wasn)['’]t\b|不如|不是|并不|更差)",
    re.I,
)
CONCLUDING = (
    r"\b(?:therefore|thus|hence|conclusion|ultimately|finally|but)\b[^\[]{0,200}\[\[(A|B|Tie)\]\]\W*\Z"
)
KEY = (
    r"(?:final_?|overall_?)?(?:winner|verdict|answer|choice|result|decision|judge?ment|preferred|preference"
    r"|better|better_answer|pick|overall|胜者|判定|结论|勝者)"
)
LOOSE_JSON = re.compile(rf"[\"']{KEY}[\"']\s*:\s*[\"']([^\"'\n,}}]+)(?:[\"']\s*([|/]|or\b))?", re.I)
QUOTED = re.compile(r"(?<![:=] )(?<![:=])[\"“«「][^\"“”«»「」\n]*[\"”»」]")


def named(found: re.Match[str]) -> str | None:
    """The side a LABEL names: A, B or Tie; None where it compares a side with itself."""
    group = found.groupdict()
    if group["op"]:
        left, right = group["l"].upper(), group["r"].upper()
        return None if left == right else {"=": "Tie", ">": left, "<": right}[group["op"]]
    return "Tie" if group["tie"] or group.get("c") else str(group["mark"] or group["side"]).title()


def clean_reply(raw: str) -> str:
    """The reply without thinking, invisible characters, markup and end tokens; its marks made uniform.

    A heading gets a colon: it announces what follows, as a label that ends with one does.
    """
    text = unicodedata.normalize("NFKC", html.unescape(raw))
    text = "".join(char for char in text if unicodedata.category(char) != "Cf")
    text = without_reasoning(text)
    text = re.sub(r"<\|[^|<>\n]*\|>|</s>|<(?:end_of_turn|eos)>", " ", text)
    text = re.sub(r"\\boxed\{(?:\\text\{)?\s*([^{}]*?)\s*\}{1,2}", r"[[\1]]", text)
    if text.count("\n") > text.rstrip().count("\n") - 1 and "\n" in text.strip():
        text = re.sub(r"^\s{0,3}#+\s+([^\n:]*[^\n:\s])[ \t]*$", r"\1:", text, flags=re.M)
    text = re.sub(r"^\s*(?:```|~~~)\w*\s*?$|\*\*|__|`|^\s{0,3}(?:#+|>)\s", "", text, flags=re.M)
    return BRACKETED.sub(lambda found: f"[[{named(found)}]]", text).replace("*", "").strip()


def whole_label(text: str) -> str | None:
    """The verdict of a text that is nothing but a label: "A", "Tie.", "Answer B", "A = B"; not the grade A+.

    >>> whole_label("**Tie.**"), whole_label("Answer B"), whole_label("B >> A"), whole_label("A+")
    ('Tie', 'B', 'B', None)
    """
    bare = re.sub(r"^\W+|(?<![+-])\W+$|\s\W+$", "", text)
    bare = OWN_WORDS.sub("", bare)
    bare = re.sub(r"(?:です|だ|입니다|이다)$", "", bare)
    found = None if re.search(r"\b[AB][+-]|\?", text) else re.fullmatch(LABEL, bare, re.I)
    return named(found) if found else None


def winner_values(value: Any) -> Iterator[Any]:
    """Every value under a winner-like key of parsed JSON, at any depth."""
    for key, item in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        if isinstance(item, (dict, list)):
            yield from winner_values(item)
        elif isinstance(key, str) and re.fullmatch(KEY, key, re.I):
            yield item


def json_side(item: Any) -> str | None:
    """The side that a winner-like key of JSON names. Numbered from 1: {"winner": 2} is the second answer."""
    if isinstance(item, str):
        return whole_label(item) or claimed_side(item)
    return {1: "A", 2: "B"}.get(item) if isinstance(item, int) and not isinstance(item, bool) else None


def json_verdict(text: str) -> tuple[str | None, str]:
    """The winner that JSON names, whole, truncated or single-quoted, and the text outside of it.

    AMBIGUOUS where it names none or two.
    """
    values: list[Any] = []
    outside = ""
    start, done = text.find("{"), 0
    while start >= 0:
        try:
            parsed, end = json.JSONDecoder().raw_decode(text, start)
            values += winner_values(parsed)
            outside += text[done:start] + "\n"
            done = end
        except (ValueError, RecursionError):
            end = start + 1
        start = text.find("{", end)
    outside += text[done:]
    if not values:
        loose = LOOSE_JSON.findall(text)
        values, outside = [None if choice else value for value, choice in loose], ""
    sides = {json_side(item) for item in values}
    return (sides.pop() or AMBIGUOUS) if len(sides) == 1 else AMBIGUOUS if sides else None, outside


def anchored_label(text: str) -> str | None:
    """The label after "verdict:", "winner is", "[RESULT]": the last one, of the strongest wording.

    AMBIGUOUS where two of the strongest wording differ and the last is not the end of the reply, or where
    what follows claims the other side.
    """
    ranked: dict[int, list[tuple[str | None, int]]] = {1: [], 2: [], 3: []}
    for found in ANCHORED.finditer(text):
        after, side = text[found.end() :], found["side"]
        if NOT_A_VERDICT.search(re.split(r"[.!?;:。\n]", text[: found.start()])[-1]):
            continue
        if UNBINDS.match(after) or ((side or found["mark"]) in ("A", "B") and not BOUND.match(after)):
            continue
        if side in ("a", "b") and not re.match(r"\W*(?:\n|$)", after):
            continue
        words = text[max(0, found.start() - 12) : found.end()].lower()
        rank = 3 if re.search(r"final|最终|最終|최종|endgültig|endurteil|итогов|окончательн", words) else 1
        rank = max(
            rank, 2 if re.search(r"verdict|overall|urteil|вердикт|veredic|判定|판정|结论|結論", words) else 1
        )
        if named(found):
            ranked[rank].append((named(found), found.end()))
    for rank in (3, 2, 1):
        if ranked[rank]:
            side, end = ranked[rank][-1]
            rest = text[end:]
            differ = len({one for one, _ in ranked[rank]}) > 1 and re.search(r"\w", rest)
            denied = side in OTHER_SIDE and claimed_side(rest) == OTHER_SIDE[side]
            return AMBIGUOUS if differ or denied or is_replaced(str(side), rest) else side
    return None


def is_replaced(side: str, rest: str) -> bool:
    """Whether what follows a stated side ends with another label on its own: a draft, or a thought between
    marks that nobody knows, came before it ("<notes>verdict: B</notes> A", "Verdict: B. Revised: A").

    A last line that names the loser ("Runner-up: B") replaces nothing.
    """
    last = REPLACED.search(rest)
    if not last or (last["head"] and LOSING_HEAD.search(last["head"])):
        return False
    return whole_label(last["label"]) not in (side, None)


def marked_label(text: str) -> str | None:
    """The only [[label]] of its own, the first of "[[B]] is better than [[A]]", or a concluding one."""
    if re.search(r"\[\[(?:A|B|Tie)\]\][\"'\s]*(?:if|when|unless)\b", text):
        return AMBIGUOUS  # an echo of the instructions
    marks = [
        found
        for found in re.finditer(r"\[\[(A|B|Tie)\]\]", text)
        if not NOT_OWN.search(text[max(0, found.start() - 40) : found.start()])
        and not MARK_LOST.match(text, found.end())
    ]
    sides = {found[1] for found in marks}
    if len(sides) == 2:
        compared = r"\[\[([AB])\]\] (?:is|was) (?:\w+ly )?better than \[\[[AB]\]\]"
        found = re.search(compared, text) or re.search(CONCLUDING, text, re.I)
        return found[1] if found else AMBIGUOUS
    if len(sides) == 1:
        side = sides.pop()
        denied = side in OTHER_SIDE and claimed_side(text[marks[-1].end() :]) == OTHER_SIDE[side]
        return AMBIGUOUS if denied else side
    return AMBIGUOUS if sides else None


def lone_line(text: str) -> str | None:
    """The label alone on the last or the first line, or the one that opens the reply ("A: it is ...").


    A label that ends with a colon heads a part of the reply and decides nothing. One with a noun on the first
    line ("Answer A") may be such a heading without its colon: prose must claim the same.
    """
    lines = [line for line in text.splitlines() if line.strip()] or [""]
    alone = [(place, whole_label(line)) for place, line in enumerate(lines) if not re.search(r":\W*$", line)]
    labels = [(place, side) for place, side in alone if side]
    sides = {side for _, side in labels}
    last = len(lines) - 1
    claimed = claimed_side(text)
    if len(sides) == 1 and labels and {place for place, _ in labels} & {0, last}:
        side = str(labels[0][1])
        is_bare = len(re.sub(r"\W", "", lines[labels[0][0]])) == 1 or side == "Tie"
        place = labels[-1][0]
        if place == last or is_bare or claimed == side:
            return AMBIGUOUS if claimed and claimed == OTHER_SIDE.get(side) and place != last else side
        return AMBIGUOUS
    if len(sides) > 1:
        # Headings of both parts and then the verdict; two lone letters are no verdict.
        before = {side for place, side in labels if place != last}
        return labels[-1][1] if labels[-1][0] == last and {"A", "B"} <= before else AMBIGUOUS
    return opening_label(text)


def opening_label(text: str) -> str | None:
    """The label that opens a reply with its reason ("B, because ..."), if the reason speaks for it."""
    opening = re.match(
        rf"\W*(?P<noun>{NOUN} )?(?P<label>[ABb]|(?i:{TIE}))\s*"
        r"(?:[–—(:](?![ \t]*\n)|-\s|\.\s|, (?P<because>because|since|as|by (?:a|far)|weil|car|porque)\b)"
        r"(?P<rest>.*)",
        text,
        re.S,
    )
    others = rf"\b[AB]\s*[:(]|\b[AB]\s*=(?!\s*[AB])|^\W*[AB]\b[).]|^\W*(?:{NOUN} )?[AB]\s*[–—-]"
    if not opening or re.search(others, opening["rest"], re.M):
        return None
    side = opening["label"].upper() if len(opening["label"]) == 1 else "Tie"
    if side == "Tie":
        return side
    if opening["noun"] and not opening["because"] and claimed_side(text) != side:
        return AMBIGUOUS  # the head of a part, perhaps
    reason = re.split(r"[.!?。\n]", opening["rest"].strip(), maxsplit=1)[0]
    if reason and not re.sub(r"[\W\d_]|\b[AB]\b", "", reason):
        return AMBIGUOUS  # points of one answer
    lost = (
        rf"\W*(?:it |this |the answer |{NOUN} )?(?:is |was |has |does |ist |est |es )?"
        rf"(?:\w+ly )?(?:{NEGATED}|wrong|incorrect|bad|poor|false|incomplete|out)(?!\w)|[^.]*\bthan "
        rf"(?:{NOUN} )?{side}\b"
    )
    foreign = NOT_ENGLISH.search(reason) or re.search(r"[^\W\d_A-Za-z\u00c0-\u024f]", reason)
    doubtful = re.match(lost, reason, re.I) or (foreign and not re.match(REASON, reason, re.I))
    return AMBIGUOUS if doubtful or claimed_side(opening["rest"]) == OTHER_SIDE[side] else side


def parse_verdict(raw: str | None, was_cut: bool = False) -> str | None:
    """A, B or Tie as the judge's reply states it, by slot; None where it states none. There is no default.

    was_cut: the token limit ended the reply. Its last sentence may have gone on otherwise ("Verdict: A is
    wrong"), so that it says nothing unless it is all that there is; and a label on a line of its own may head
    a part of it, unless it opens the reply and an empty line follows.
    """
    text = clean_reply(raw or "")
    found = whole_label(text) or ("Tie" if re.fullmatch(r"neither\W*", text, re.I) else None)
    opened = OPENED.match(text) if was_cut else None
    if not found:
        text = finished_part(text) if was_cut else text
        found, outside = json_verdict(text)
        spoken = stated_side(outside) if found in OTHER_SIDE and outside.strip() else None
        if found in OTHER_SIDE and spoken == OTHER_SIDE[str(found)]:
            return None  # JSON that is quoted, perhaps
    if not found:
        found = stated_side(text, was_cut) or claimed_side(without_quotes(text))
        found = against_loser(found, text)
        if not found and not was_cut:
            found = side_with_more_points(text)
        if opened:
            label = whole_label(opened[0])
            found = label if found in (None, label) else AMBIGUOUS
    return None if found == AMBIGUOUS else found


def against_loser(found: str | None, text: str) -> str | None:
    """The side found, held against the lines that name the loser; where there is none, the other than theirs.

    AMBIGUOUS where they contradict it or each other. In a reply that goes through criteria the line may be
    about one of them.
    """
    losers = {line["side"] for line in LOSER_LINE.finditer(text)}
    if not losers or found == AMBIGUOUS or re.search(rf"\b{CRITERION}", text, re.I):
        return found
    wins = OTHER_SIDE[losers.pop()]
    return wins if not losers and found in (None, wins) else AMBIGUOUS


def finished_part(text: str) -> str:
    """The text up to its last end of a sentence, line or JSON object; of open JSON up to its last quote.

    >>> finished_part("B is short. Verdict: A"), finished_part('{"winner": "A", "why": "I')
    ('B is short.', '{"winner": "A", "why": "')
    """
    open_json = text.count("{") > text.count("}")
    ends = [found.end() for found in re.finditer(r"\"" if open_json else r"[.!?](?=\s)|[。}]|\n", text)]
    return text[: ends[-1]].strip() if ends else ""


def without_quotes(text: str) -> str:
    """The text without what the judge quotes (an answer that asks for [[A]]) and without single criteria."""
    said = QUOTED.sub(lambda found: " " if len(found[0].split()) > 2 else found[0], text)
    return CRITERION_LINE.sub("", said) if said.strip() else text


def stated_side(text: str, was_cut: bool = False) -> str | None:
    """The side that a text states as its verdict: behind an anchor, in marks, or alone on a line."""
    said = without_quotes(text)
    return anchored_label(said) or marked_label(said) or (None if was_cut else lone_line(said))
