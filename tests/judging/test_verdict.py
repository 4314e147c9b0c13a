"""edgebench/judging/verdict.py, claims.py: what a reply says, in any language, and never the wrong side."""

import json
import re
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgebench.judging.claims import GRAMMARS, claims_abroad, english_claims
from edgebench.judging.verdict import parse_verdict, whole_label
from tests.waiting import comes_to_an_end

ROOT = Path(__file__).resolve().parents[2]
FIELD_CASES = ROOT.parent / "shared" / "data" / "field-cases" / "judge" / "verdict_replies.jsonl"
REAL_REPLIES = ROOT.parent / "shared" / "data" / "judge" / "verdicts.jsonl"
OTHER = {"A": "B", "B": "A", "Tie": "Tie", None: None}

# language -> what the reply says -> replies. Each is asked the other way round, too (test_no_slot_...).
PLAIN: dict[str, dict[str, list[str]]] = {
    "Chinese": {
        "B": [
            "B比A更好",
            "B 比 A 更好，因为它更完整。",
            "答案B比答案A更好",
            "回答B明显优于回答A。",
            "A不如B。",
            "A没有B好",
            "A比B差。",
            "相比A，B更好。",
            "B更好",
            "回答 B 更胜一筹。",
            "助手B的回答更好，因为它更完整。",
            "B胜出",
            "B 获胜！",
            "最终判断：B",
            "最终判定是 B。",
            "判定：B",
            "胜者：B",
            "获胜者是B。",
            "结论：B更好",
            "我的选择是B",
            "我选择 B。",
            "我选B",
            "综上所述，我选择 B。",
            "综上所述，我认为B更好。",
            "因此，B 更好。",
            "更好的回答是 B",
            "更好的答案：B",
            "答案：B",
            "最终答案：答案B",
            "事实性：A更好\n有用性：A更好\n综合来看，B 更好",
            "两个回答都不错。\n\n最终判断：B",
            "選擇：B",
            "我更喜欢B",
            "「B」",
            "【B】",
        ],
        "Tie": ["平局", "平手。", "两者不相上下。", "A和B一样好", "最终判断：平局", "结果是平局。"],
        "": [
            "A 并不比 B 更好。",
            "A不比B好",
            "A不是更好的回答",
            "我不选A",
            "如果看重简洁，A更好。",
            "在准确性方面，A更好。",
            "A更好吗？",
            "有人认为A更好。",
            "A更好，但B更准确也更完整。",
            "A更简洁，B更详细。",
            "事实性：A\n有用性：B",
            "A：不如B那样简洁",
            "最终判断：A或B",
            "A 未必更好",
            "很难说A更好",
            "A可能更好",
            "看起来A更好，其实不然。",
            "A更好。不对，应该重新考虑。",
        ],
    },
    "Japanese": {
        "B": [
            "Bの方が良いです。",
            "回答Bのほうが優れています。",
            "BはAより優れています。",
            "AよりBの方が良い",
            "AはBより劣っています。",
            "Bを選びます。",
            "私はBを選択します。",
            "総合的に見て、Bの方が優れていると判断します。",
            "勝者：B",
            "判定：B",
            "最終判定：B",
            "最終的な判定はBです。",
            "勝者はBです。",
            "より良い回答はBです。",
            "Bの勝ち",
            "結論：B",
            "Bです",
        ],
        "Tie": ["引き分け", "引き分けです。", "両者は同等です。", "判定：引き分け"],
        "": [
            "Aの方が良いとは言えません。",
            "Aの方が良いわけではない。",
            "Aは良くない",
            "簡潔さではAの方が良いです。",
            "もし正確さを重視するなら、Aの方が良いです。",
            "Aの方が良いですか？",
            "Aの方が良いかもしれません。",
            "Aは簡潔で、Bは詳細です。",
        ],
    },
    "Korean": {
        "B": [
            "B가 더 낫습니다.",
            "답변 B가 더 좋습니다.",
            "B는 A보다 낫습니다.",
            "A보다 B가 더 우수합니다.",
            "A는 B보다 못합니다.",
            "B를 선택합니다.",
            "저는 B를 선택하겠습니다.",
            "따라서, 답변 B가 더 낫습니다.",
            "승자: B",
            "최종 판정: B",
            "결론: B",
            "승자는 B입니다.",
            "최종 판단은 B입니다.",
            "더 나은 답변은 B입니다.",
            "B입니다",
        ],
        "Tie": ["무승부", "무승부입니다.", "두 답변은 동등합니다.", "최종 판정: 무승부"],
        "": [
            "A가 B보다 낫지 않습니다.",
            "A가 더 낫다고 할 수 없습니다.",
            "정확성 면에서는 A가 더 좋습니다.",
            "만약 간결함이 중요하다면 A가 더 낫습니다.",
            "A가 더 나은가요?",
            "A는 간결하고 B는 자세합니다.",
            "A가 더 나을 수도 있습니다.",
        ],
    },
    "German": {
        "B": [
            "Antwort B ist besser",
            "Antwort B ist besser als Antwort A.",
            "Insgesamt ist Antwort B deutlich besser.",
            "Die bessere Antwort ist B.",
            "B ist überlegen.",
            "A ist schlechter als B.",
            "A ist nicht so gut wie B.",
            "Ich wähle B.",
            "Ich bevorzuge Antwort B, weil sie vollständiger ist.",
            "Ich entscheide mich für B",
            "Gewinner: B",
            "Der Gewinner ist B.",
            "Urteil: B",
            "Fazit: Antwort B",
            "Endgültiges Urteil: B",
            "Beide sind gut.\n\nEntscheidung: B",
            "B gewinnt.",
        ],
        "Tie": [
            "Unentschieden",
            "Es ist ein Unentschieden.",
            "Beide Antworten sind gleichwertig.",
            "Urteil: Unentschieden",
        ],
        "": [
            "A ist nicht besser als B.",
            "A ist keineswegs besser.",
            "A ist sachlich besser.",
            "Wenn man Kürze schätzt, ist A besser.",
            "A ist besser, wenn man Kürze schätzt.",
            "Ist A besser?",
            "Urteil: Antwort A ist nicht besser als B.",
            "Verdict: Option A ist schlechter",
            "A ist besser, aber B ist genauer und hilfreicher.",
            "Manche finden, A ist besser.",
        ],
    },
    "French": {
        "B": [
            "La réponse B est meilleure",
            "B est meilleure que A.",
            "Globalement, la réponse B est nettement meilleure que la réponse A.",
            "La meilleure réponse est B.",
            "A est moins bonne que B.",
            "A n'est pas aussi bonne que B.",
            "Je choisis B.",
            "Je préfère la réponse B car elle est plus complète.",
            "Gagnant : B",
            "Verdict final : B",
            "Vainqueur : Réponse B",
            "Réponse : B",
            "B l'emporte.",
            "Mon choix est B.",
        ],
        "Tie": [
            "Égalité",
            "C'est une égalité.",
            "Les deux réponses se valent.",
            "Verdict : égalité",
            "Match nul",
        ],
        "": [
            "A n'est pas meilleure que B.",
            "Verdict final : Assistant A n'est pas meilleur",
            "A est plus concise.",
            "Si l'on préfère la concision, A est meilleure.",
            "A est meilleure si l'on préfère la concision.",
            "A est-elle meilleure ?",
            "A est meilleure, mais B est plus exacte.",
            "A mon avis, c'est difficile.",
        ],
    },
    "Spanish": {
        "B": [
            "La respuesta B es mejor",
            "B es mejor que A.",
            "En general, la respuesta B es claramente superior a la respuesta A.",
            "La mejor respuesta es B.",
            "A es peor que B.",
            "A no es tan buena como B.",
            "Elijo B.",
            "Prefiero la respuesta B porque es más completa.",
            "Ganador: B",
            "Veredicto final: B",
            "Respuesta: B",
            "B gana.",
            "Gana B",
        ],
        "Tie": ["Empate", "Es un empate.", "Ambas respuestas son igualmente buenas.", "Veredicto: empate"],
        "": [
            "A no es mejor que B.",
            "Veredicto: A no es mejor que B",
            "Veredicto final: Opción A no es mejor",
            "A es más concisa.",
            "Si se prefiere la brevedad, A es mejor.",
            "A es mejor si se prefiere la brevedad.",
            "¿Es A mejor?",
            "A es mejor, pero B es más exacta.",
            "A mi juicio es difícil.",
        ],
    },
    "Russian": {
        "B": [
            "Ответ B лучше",
            "Ответ B лучше, чем ответ A.",
            "B лучше A.",
            "В целом, ответ B значительно лучше.",
            "Лучший ответ — B.",
            "A хуже B.",
            "A хуже, чем B.",
            "A уступает B.",
            "Я выбираю B.",
            "Я предпочитаю ответ B, потому что он полнее.",
            "Победитель: B",
            "Победитель — B.",
            "Вердикт: B",
            "Итоговый вердикт: B",
            "Ответ: B",
            "B побеждает.",
        ],
        "Tie": ["Ничья", "Оба ответа равноценны.", "Вердикт: ничья"],
        "": [
            "A не лучше B.",
            "Ответ A не лучше, чем B.",
            "Вердикт: A не лучше",
            "A более краток.",
            "Если важна краткость, A лучше.",
            "A лучше, если важна краткость.",
            "A лучше?",
            "A лучше, но B точнее.",
            "В этом ответе нет ошибок.",
            "Победитель: В",  # the preposition, or a Cyrillic look-alike
        ],
    },
    "English": {
        "B": [
            "B is slightly better than A.",
            "Therefore, Answer B is better than Answer A because it is complete.",
            "A is worse than B.",
            "A is less helpful than B.",
            "I'd go with B.",
            "I would pick B over A.",
            "I think that response B is the better one.",
            "The better answer is B, since A omits the date.",
            "Assistant B wins.",
            "B, because A is wrong.",
            "B: it follows the instructions.",
            "Winner - B",
            "Final verdict: B (A has an error)",
            "Final verdict: [[B]], not [[A]].",
            "Answer A:\nGood, but short.\n\nAnswer B:\nRight and complete.\n\nVerdict: B",
            "A\nIt is short.\n\nB\nIt is complete.\n\nB",
            "## Answer A\nIt is wrong.\n\n## Answer B\nIt is right.\n\n## Final verdict\nB",
            "ANSWER_B",
            "Model B",
            "### Verdict\n**B**",
            "The final answer is $\\boxed{\\text{B}}$.",
            "\\[ \\boxed{B} \\]",
            '{"reasoning": "A is better in style", "winner": "B"}',
            '{"winner": "B", "loser": "A"}',
        ],
        "Tie": [
            "It is a tie.",
            "Neither",
            "They are equally good.",
            "Neither answer is better.",
            "Verdict: tie between A and B",
        ],
        "": [
            "A is not better than B.",
            "A is hardly better than B.",
            "It would be wrong to say A is better than B.",
            "Some would say A is better.",
            "At first glance A is better.",
            "A is less verbose than B.",
            "A is weaker in style.",
            "A better response would name the date.",
            "A better answer comes to mind.",
            "In terms of factuality, A is better.",
            "A is better for children who like short texts",
            "A is better if brevity matters.",
            "If brevity matters, A is better.",
            "I choose A if style matters, else B.",
            "I cannot choose A.",
            "I refuse to pick A.",
            "Is A better?",
            "Answer A:\nWrong.\n\nAnswer B:\nRight.",
            "A\nIt is short.\n\nB\nIt is complete.",
            "## Answer A\nThe answer is good but",
            "Answer A\n\nThe answer is well written, it",
            "Verdict: B's answer fails to say why",
            "Verdict: A is niet beter dan B",
            "Verdict: A has more errors than B",
            "The correct answer is A, which both found.",
            "A: worse than the other one.",
            "Both",
            '{"winner": "A"}\n\nThat was an example. Final verdict: B',
            "[[A]] is worse.",
            "A and B",
            "А",  # Cyrillic
            "Α",  # Greek
        ],
    },
}


def plain_cases() -> list[tuple[str, str | None]]:
    told = [item for replies in PLAIN.values() for item in replies.items()]
    return [(reply, said or None) for said, replies in told for reply in replies]


def turned_round(reply: str) -> str:
    """The reply of a judge that saw the two answers the other way round: every A a B, and first second."""
    other = {"A": "B", "B": "A", "first": "second", "second": "first"}
    text = unicodedata.normalize("NFKC", reply)
    text = re.sub(
        r"(?<![A-Za-z0-9])[AB](?![A-Za-z0-9])(?!\s+(?:better \w|mon\b|mi\b))",
        lambda found: other[found[0]],
        text,
    )
    return re.sub(
        r"\b(?:first|second)(?= (?:assistant|answer|response))", lambda found: other[found[0]], text
    )


@pytest.mark.parametrize(("reply", "said"), plain_cases(), ids=lambda value: repr(value)[:40])
def test_a_reply_is_read_or_stays_unread(reply: str, said: str | None) -> None:
    assert parse_verdict(reply) == said


@pytest.mark.parametrize("reply", [reply for reply, _ in plain_cases()], ids=lambda reply: repr(reply)[:40])
def test_no_slot_is_read_better_than_the_other(reply: str) -> None:
    assert parse_verdict(turned_round(reply)) == OTHER[parse_verdict(reply)]


def shared_replies(path: Path, key: str) -> list[tuple[str, str | None]]:
    if not path.is_file():
        pytest.skip("the collection of replies is not on this machine")
    cases = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [(case["raw"], case[key]) for case in cases]


def test_the_field_cases_are_read() -> None:
    wrong = [
        (raw, want, found)
        for raw, want in shared_replies(FIELD_CASES, "want")
        if (found := parse_verdict(raw)) != want
    ]
    # "Both" is no verdict in the other collection, and names nobody here.
    assert [raw for raw, *_ in wrong] in ([], ["Both"])
    assert not [case for case in wrong if {*case[1:]} == {"A", "B"}]


def test_no_reply_of_the_collections_is_read_for_the_wrong_side() -> None:
    for raw, expected in shared_replies(REAL_REPLIES, "expected"):
        found = parse_verdict(raw)
        assert {found, expected} != {"A", "B"}, raw
        # "b.", "a" and the article of "A tie." are not turned round.
        if raw and not re.search(r"\b[ab]\b|^A tie", raw):
            assert parse_verdict(turned_round(raw)) == OTHER[found], raw


# Replies made to mislead: what they say may stay unread, and is never read for the other side.
SAY_B = [
    "After careful comparison, I find that Assistant B's response is better, as it is on topic.",
    "Response A is okay, but it repeats itself. Response B is concise and factual. Response B is better.",
    "Both answers are correct. Answer B is more concise, which makes it better.",
    "B is more accurate than A, so B wins.",
    "I'd give this to B.",
    "Overall winner: B",
    "<scratchpad>Verdict: A</scratchpad>\nB",
    "<cot>winner: A</cot> B",
    "```thinking\nVerdict: A\n```\nB",
    "Initial verdict: A. After revision: B",
    "Verdict: A\nRevised: B",
    "Winner: A. Hmm, actually B.",
    "结论：A\n更正：B",
    "Winner: B\nRunner-up: A",
    "Overall: Answer B is better.",
    "The answer B is better than the answer A.",
    'Answer "B" is better.',
    '"B"',
    "'B' is the better answer.",
    'My decision is "B".',
    'My answer: "B".',
    'Return "B"',
    'I return "B".',
    "Factuality: Both\nHelpfulness: B\nStructure: B\nConciseness: A\n\nB",
    "- Factuality: A\n- Helpfulness: B\n\n**B**",
    "Factuality: A=5, B=5. Overall B.",
    "Not a tie: B is better.",
    "Slight edge to B",
    "A slight edge goes to B.",
    "B has the edge.",
    "The verdict: Response B.",
    "verdict is B",
    "I vote B",
    'I pick "B"',
    "I'll go with answer B.",
    "B, by a small margin.",
    "B. It is more factual.",
    "B - more factual.",
    "B (more factual)",
    "A loses, B wins.",
    "A is beaten by B.",
    "**Answer B:** Short and clear.\n\n**Answer A:** Long and wrong.\n\nAnswer B is better.",
    "A is outperformed by B.",
    "A is inferior to B",
    "B is superior to A.",
    "最终判断：A不如B",
    "A is good. B is better.",
    "While A is better structured, B is the better answer overall.",
    "I would not choose A.",
    "A seems better but B is actually better.",
    "The first answer is worse than the second answer.",
    "B edges out A.",
    "Overall, B edges ahead.",
    "My vote goes to B.",
    "B takes it.",
    "Winner: B, because A is wrong",
    "Winner: B. A is not wrong, but short.",
    "The loser is A.",
    "Loser: A",
    "Worse answer: A",
    "The worse answer is A.",
    "The weaker response is A.",
    "Answer A lacks detail, so answer B.",
    "A < B",
    "B>A",
    '{"winner": "B", "confidence": 0.9, "loser": "A"}',
    '{"winner": "Response B"}',
    '{"winner": "assistant_b"}',
    '{"winner":"B"}</s>',
    "<answer>B</answer>",
    "<verdict>[[B]]</verdict>",
    "<think>A</think><answer>B</answer>",
    "Final Answer: (B)",
    "**Final Verdict:** Answer B is better.",
    "**Verdict: Answer B** is better than Answer A.",
    "In summary, response B is the superior choice.",
    "I believe B is better.",
    "To conclude, B is preferable.",
    "I'm choosing B",
    "B it is.",
    "Going with B.",
    "Definitely B.",
    "Clearly B",
    "B!",
    "b",
    "(b)",
    "Option (B)",
    "Choice: B)",
    "B :)",
    "A比B差",
    "A比B更差，所以选B",
    "A 稍逊于 B",
    "B不差于A且更好",
    "更好的回答不是A，而是B",
    "最终判断：B更好",
    "最终判断是：回答B。",
    "判断结果：B",
    "B赢",
    "我会选B。",
    "我认为回答B比回答A好。",
    "相比之下，B更好",
    "A 较差",
    "答案：B",
    "AよりもBのほうが優れていると思います。",
    "Bが勝ちです",
    "B가 A보다 더 좋습니다.",
    "Die bessere Antwort ist nicht A, sondern B.",
    "A ist schlechter.",
]
SAY_NOTHING = [
    'Return "A" if the first is better',
    'You should return "A" when A is better.',
    "The rubric says to return A if A is better.",
    'Rate on: factuality... Return "A", "B", or "Tie".',
    "Factuality: A\nHelpfulness: A\nStructure: A\nConciseness: A",
    "A: good\nB: better",
    "1. A is short.\n2. B is long.",
    "(A) short (B) long",
    "A) short\nB) long",
    "**Answer A**\nShort and clear.\n\n**Answer B**\nLong and wrong.",
    "**Answer A:** Short and clear.\n\n**Answer B:** Long and wrong.",
    "Answer A: Short and clear. It",
    "Assistant A provides a comprehensive list of",
    "A is a good answer.",
    "B is a bad answer.",
    "B is wrong.",
    "A is correct and B is wrong.",
    "Neither A nor B",
    "A and B tie",
    "I'd say tie, but A is better in style.",
    "No edge to A.",
    "A has the edge in style, B in facts.",
    "A better job could be done by B.",
    "A best answer would mention both.",
    "A strong preference for neither.",
    "As an AI model, A is hard to judge.",
    "As for A, it is better at nothing.",
    "I'd go with A only if forced.",
    "If I had to choose, I'd go with A.",
    "Should I choose A? B?",
    "A (wrong)",
    "A - wrong",
    "A: wrong.",
    "A. Wrong.",
    "A, which is wrong",
    "A is out.",
    "B is beaten by A? No.",
    "B is outperformed by A in style.",
    "A is not inferior to B",
    "A is not superior to B",
    "A isn't the winner",
    "A was the winner last time, now B.",
    "A cannot be the winner",
    "A can hardly be called better.",
    "A is by no means better.",
    "A is anything but better.",
    "Far from being better, A is wordy.",
    "It's wrong that A is better.",
    "I disagree that A is better.",
    "I doubt A is better.",
    "Nobody would say A is better.",
    "A is better? I think not.",
    '"A is better" is what a careless reader would say.',
    "One might think A is better, yet B has fewer errors.",
    "People who like poems say A is better.",
    "A is better than C.",
    "A is better now than before",
    "A is better when read aloud.",
    "A is better only in length.",
    "A is better in two of four criteria.",
    "A is better for beginners.",
    "A is better, if one ignores the facts.",
    "A wins on structure, B wins on facts.",
    "A wins the first round.",
    "A wins in style.",
    "Between the two, A is better at being concise while B is better overall? Hard to say.",
    "A is better than most answers I have seen, and so is B.",
    "Whether A is better depends on the reader.",
    "Verdict: it depends",
    "Verdict: A? B?",
    "Verdict: A is wrong, B is wrong",
    "Winner: not B",
    "Winner: none",
    "The better answer is not A.",
    "Is the better answer A?",
    "The better of the two, A or B, is hard to find.",
    '{"A": true, "B": false}',
    '{"winner": "A", "final_winner": "B"}',
    '{"winner": "not A"}',
    "Answer A is better at grammar. Answer B is better at logic.",
    "A and B are both better than expected.",
    "I believe A may be better.",
    "A would win if it were shorter.",
    "It is not clear that A is better.",
    "I was told that A is better.",
    "The user says A is better.",
    "The reference says A is better.",
    "The expected answer is A.",
    "Both say the answer is A.",
    "Both answers conclude that the answer is A.",
    "The question's answer is A; both found it.",
    "A, no wait, B",
    "A... or B",
    "not B",
    "nor A",
    "A?",
    "A B",
    "AB",
    "Grade A",
    "Vitamin B",
    "Plan B is better than nothing.",
    "A和B各有优劣",
    "A不差于B",
    "A优于B吗",
    "并非A更好",
    "A并非更好",
    "不能说A更好",
    "A没有B差",
    "A不比B差",
    "不选A",
    "不能选A",
    "A不应该获胜",
    "选择A是错误的",
    "不是A",
    "我不认为A更好",
    "不认为A更好",
    "更好的不是A",
    "更好的回答不是A",
    "最终判断：不是A",
    "最终判断：A并不更好",
    "A胜在简洁",
    "A更好一些的地方是结构",
    "A更好地组织了结构",
    "正确答案：A",
    "参考答案是A",
    "题目的答案是A",
    "AはBより良くない",
    "AがBより優れているとは思いません",
    "Aではありません",
    "Aを選びません",
    "Aを選ばない",
    "判定：Aではない",
    "A보다 B가 더 나쁩니다",
    "A가 더 낫지 않다",
    "A를 선택하지 않습니다",
    "판정: A가 아님",
    "A보다 낫다고 보기 어렵습니다",
    "Keine ist besser als A.",
    "A ist kaum besser als B",
    "A ist leider nicht besser.",
    "Ich wähle nicht A.",
    "Ich wähle weder A noch B.",
    "Gewinner: nicht A",
    "Der Gewinner ist nicht A.",
    "Die bessere Antwort ist nicht A.",
    "Antwort A ist besser? Nein.",
    "Je ne choisis pas A.",
    "Je ne préfère pas A",
    "La meilleure réponse n'est pas A.",
    "Gagnant : pas A",
    "A est loin d'être meilleure",
    "No elijo A.",
    "La mejor respuesta no es A.",
    "Ganador: no A",
    "A no gana",
    "A apenas es mejor",
    "Победитель не A",
    "Победитель: не A",
    "Я не выбираю A.",
    "Лучший ответ не A",
    "A вряд ли лучше B",
    "A vince ma B è migliore",
    "O vencedor não é A",
    "Vencedor: não A",
    "A risposta B è migliore",
    "A resposta A não é melhor",
    "A er ikke bedre end B",
    "Zwycięzca: nie A",
    "A nie jest lepsze niż B",
    "A, B'den daha iyi değil",
    "A tidak lebih baik dari B",
    "A không tốt hơn B",
    "ผู้ชนะ: A",
    "الفائز: A ليس الأفضل",
]


@pytest.mark.parametrize("reply", SAY_B, ids=lambda reply: repr(reply)[:40])
def test_a_winding_reply_is_never_read_for_the_other_side(reply: str) -> None:
    assert parse_verdict(reply) in ("B", None)


@pytest.mark.parametrize("reply", SAY_NOTHING, ids=lambda reply: repr(reply)[:40])
def test_what_says_nothing_sure_stays_unread(reply: str) -> None:
    assert parse_verdict(reply) is None


# ---------------------------------------------------------------------------
# Laws

CLAIMS = [reply for replies in PLAIN.values() for reply in replies["B"]]
UNSURE = [reply for replies in PLAIN.values() for reply in replies[""]]
THINKING = [
    "<think>{}</think>",
    "[THINK]{}[/THINK]",
    "◁think▷{}◁/think▷",
    "<seed:think>{}</seed:think>",
    "<longcat_think>{}</longcat_think>",
    "[unused16]{}[unused17]",
    "<thoughts>{}</thoughts>",
    "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>",
    "{}</think>",
    "{}[/THINK]",
]


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("A", "A"),
        ("**B**", "B"),
        ("Tie", "Tie"),
        ('{"winner": "B", "why": "A is', "B"),
        ('{"winner": "A', None),
        ('{"winner": "B"} because it', "B"),
        ("Verdict: A", None),
        ("Final verdict: B\n\nB names the", "B"),
        ("A is better", None),
        ("B is better. A is", "B"),
        ("Answer A is good.\n\nAnswer B", None),
        ("最终判断：B。因为A", "B"),
        ("B\n\nAnswer B names the date, while", "B"),
        ("B\nIt names the date.\n\nA", None),
        ("B\n\nA is better. It", None),
        ("B更好", None),
    ],
)
def test_the_unfinished_end_of_a_cut_reply_says_nothing(reply: str, said: str | None) -> None:
    assert parse_verdict(reply, was_cut=True) == said


@given(st.sampled_from(CLAIMS + UNSURE), st.integers(0, 200))
def test_a_reply_that_is_cut_anywhere_is_never_read_for_the_other_side(reply: str, length: int) -> None:
    part = reply[:length]
    assume(not whole_label(part))  # one word may be all that was asked for
    assert {parse_verdict(reply), parse_verdict(part, was_cut=True)} != {"A", "B"}


@given(st.sampled_from(CLAIMS), st.sampled_from(THINKING), st.sampled_from(CLAIMS + UNSURE))
def test_thinking_never_decides_against_the_verdict_behind_it(claim: str, marks: str, thought: str) -> None:
    thought = turned_round(thought).replace("\n", " ")
    assert parse_verdict(marks.format(thought) + "\n\n" + claim) == "B"


@given(st.lists(st.sampled_from(CLAIMS + UNSURE), min_size=1, max_size=4), st.booleans())
def test_turning_the_answers_round_turns_the_verdict_round(said: list[str], one_line: bool) -> None:
    reply = (" " if one_line else "\n\n").join(said)
    assert parse_verdict(turned_round(reply)) == OTHER[parse_verdict(reply)]


@given(st.lists(st.sampled_from(CLAIMS), min_size=2, max_size=4))
def test_claims_of_one_side_are_never_read_for_the_other(said: list[str]) -> None:
    assert parse_verdict("\n".join(said)) != "A"


@given(st.sampled_from(UNSURE), st.sampled_from(UNSURE))
def test_doubts_do_not_add_up_to_a_verdict(one: str, other: str) -> None:
    assume("Final verdict" not in one + other)
    lone = {"А", "Α", "Both", "A and B"}
    assume(one not in lone and other not in lone)
    assert parse_verdict(f"{one}\n\n{other}") in (None, "Tie")


@given(st.sampled_from(["A", "B", "Tie"]), st.sampled_from(CLAIMS + UNSURE))
def test_a_final_verdict_in_marks_stands_behind_any_prose(side: str, prose: str) -> None:
    assume(not re.search(r"[\[{<\"“]", prose))
    assert parse_verdict(f"{prose}\n\nFinal verdict: [[{side}]]") == side


@given(st.sampled_from([grammar.language for grammar in GRAMMARS] + ["English"]))
def test_a_grammar_is_not_used_on_another_language(language: str) -> None:
    for other, replies in PLAIN.items():
        for reply in replies["B"] + replies[""]:
            sentences = [sentence for sentence in re.split(r"\n+", reply) if sentence]
            for sentence in sentences:
                if "English" not in (other,):
                    assert english_claims(unicodedata.normalize("NFKC", sentence)) in (set(), {"B"}), sentence
                if other == "English":
                    assert claims_abroad(sentence) == set(), sentence
    assert language


WORDS = [
    *("A", "B", "A", "B", ".", "?", ",", ":", "[[", "]]", '"', '{"winner": "', '"}', "\n", "- ", "# "),
    *("不", "比", "更好", "是", "没有", "优于", "如果", "最终判断：", "の方が", "良い", "ない"),
    *("가 더 ", "낫습니다", "않", "ist", "nicht", "besser", "als", "Antwort ", "est", "meilleure", "que"),
    *("pas", "es", "no", "mejor", "ответ ", "лучше", "не", ", чем ", "is", "not", "better", "than"),
    *("Verdict: ", "so", "but ", "Answer ", "if"),
]


@given(st.lists(st.sampled_from(WORDS), max_size=14), st.sampled_from(["", " "]))
def test_any_mixture_gives_a_side_or_none_and_turns_round(words: list[str], space: str) -> None:
    reply = space.join(words)
    found = parse_verdict(reply)
    assert found in ("A", "B", "Tie", None)
    other = space.join({"A": "B", "B": "A"}.get(word, word) for word in words)
    assert parse_verdict(other) == OTHER[found]


HOSTILE = [
    *WORDS,
    "我",
    "综上所述，",
    "A更好",
    "insgesamt ",
    "в целом ",
    "によって",
    "따라서 ",
    "  ",
    "((",
    "A B ",
    "la ",
    "より",
    "是A",
    "Aは",
    "verdict: ",
    "winner is ",
    "is a ",
    "A ",
    '"a ',
    "{",
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_a_long_hostile_reply_is_read_to_its_end(piece: str) -> None:
    with comes_to_an_end(repr(piece)):  # a runaway expression takes hours
        assert parse_verdict(piece * 2000) in ("A", "B", "Tie", None)


def test_every_language_has_plain_forms_here() -> None:
    told = Counter({language: len(replies["B"]) for language, replies in PLAIN.items()})
    assert {grammar.language for grammar in GRAMMARS} <= told.keys() and min(told.values()) >= 12


@pytest.mark.parametrize("word", ["Correction", "Corrected"])
def test_a_correction_is_no_criterion(word: str) -> None:
    assert parse_verdict(f"Winner: B\n{word}: A") is None
    assert parse_verdict("Winner: B\nCorrectness: A") == "B"  # one criterion of several


# --- who beats whom, who loses, who gets more points

TOLD_OTHERWISE = {
    "A": [
        *("A beats B", "A beats B.", "Answer A beats Answer B because it is complete.", "A wins over B"),
        *(
            "A clearly outperforms B.",
            "A surpasses B.",
            "A defeats B",
            "A beats the other one.",
            "B loses to A",
        ),
        *("The first answer beats the second answer.", "B is beaten by A.", "B was outperformed by A"),
        *("B is worse", "B is worse than A.", "B is the loser.", "The loser is B.", "The worse answer is B."),
        *("The winner is A and the loser is B", "Loser: B", "**Loser:** B", "Loser: Answer B", "Worse: B"),
        *("Winner: A\nLoser: B", "Loser: B\nWinner: A", "Better: A\nWorse: B", "Weaker answer: B"),
        *("Verlierer: B", "Perdant : B", "Perdedor: B", "Проигравший: B", "输家：B", "敗者：B", "패자: B"),
        *("A schlägt B", "A bat B", "A gana a B", "A побеждает B", "A胜过B"),
        *(
            "A: 9\nB: 7",
            "B: 7\nA: 9",
            "A: 9, B: 7",
            "A: 9/10\nB: 7/10",
            "A=9; B=7",
            "A - 9\nB - 7",
            "A: 1, B: 0",
        ),
        *(
            "Answer A: 8.5\nAnswer B: 8,0",
            "Assistant A: 5/5\nAssistant B: 4/5",
            "A gets 9/10 and B gets 7/10.",
        ),
        *(
            "Scores: A=9, B=7",
            "Score A 9, Score B 8",
            "**Final scores:**\nA: 90%\nB: 70%",
            "Rating A: 2, B: 1",
        ),
        *(
            '{"A": 9, "B": 7}',
            '{"score_A": 9, "score_B": 7.5, "reason": "short"}',
            '{"A_score": 2, "B_score": 1}',
        ),
        *(
            '{"scores": {"A": 9, "B": 7}, "reason": "A is whole."}',
            '```json\n{"answer_A": 9, "answer_B": 7}\n```',
        ),
    ],
    "Tie": ["A: 8\nB: 8", "Scores: A 8/10, B 8/10", '{"A": 8, "B": 8.0}', "A: 8.0, B: 8"],
}
NOT_SURELY = [
    *(
        "A does not beat B.",
        "I doubt that A beats B.",
        "If A beats B, say A.",
        "A beats B?",
        "A beats A",
        "A could beat B.",
    ),
    *(
        "A beats B on accuracy, B beats A on style.",
        "A beats B in style.",
        "Team A beats Team B.",
        "Nothing beats A.",
    ),
    *("It is claimed that A beats B.", "A is not beaten by B.", "A is beaten by B only if length counts."),
    *(
        "In round one A beats B, in round two B beats A.",
        "A wins over B\n\nB wins over A",
        "Neither beats the other.",
    ),
    *(
        "Loser: none",
        "Loser: A or B",
        "Loser: A\nWinner: A",
        "Loser: B\nLoser: A",
        "Accuracy:\nWeaker: B",
        "No loser.",
    ),
    *(
        "The winner is A and the loser is A.",
        "The worse answer is not B.",
        "Worst case: B",
        "Better: A\nWorse: A",
    ),
    *("A: 1\nB: 2", "Rank: A: 1, B: 2", "A: 1st\nB: 2nd", "A: 9 errors\nB: 7 errors", "Words: A 90, B 70"),
    *(
        "A: 10\nB: 9 (lower is better)",
        "A: 9/10\nB: 7",
        "A: 9/10\nB: 7/5",
        "A: 12/10\nB: 7/10",
        "A: 9",
        "A: 9 B",
    ),
    *(
        "Accuracy: A: 9, B: 7",
        "Accuracy\nA: 9\nB: 7",
        "A: 9, A: 7",
        "A: 9, B: 7, C: 8",
        "A: 1999\nB: 7",
        "A: -3\nB: 2",
    ),
    *(
        '{"A": 1, "B": 2}',
        '{"A": {"accuracy": 9}, "B": {"accuracy": 7}}',
        '{"A": true, "B": false}',
        '{"A": 9}',
    ),
    *(
        '{"errors_a": 9, "errors_b": 7}',
        '{"accuracy": 9, "A": 3, "B": 2}',
        '{"scores": {"A": 9, "B": 7}, "round": 2}',
    ),
]


@pytest.mark.parametrize(
    ("reply", "said"),
    [(reply, side) for side, replies in TOLD_OTHERWISE.items() for reply in replies],
    ids=lambda text: repr(text)[:40],
)
def test_who_beats_whom_who_loses_and_who_gets_more_points(reply: str, said: str) -> None:
    assert parse_verdict(reply) == said
    assert parse_verdict(turned_round(reply)) == OTHER[said]


@pytest.mark.parametrize("reply", NOT_SURELY, ids=lambda reply: repr(reply)[:40])
def test_neither_denials_nor_counts_nor_ranks_are_verdicts(reply: str) -> None:
    assert parse_verdict(reply) is None
    assert parse_verdict(turned_round(reply)) is None


@given(
    a=st.integers(0, 100), b=st.integers(0, 100), form=st.sampled_from(["A: {}\nB: {}", "Scores: A {}, B {}"])
)
def test_more_points_win_whatever_they_are(a: int, b: int, form: str) -> None:
    assume("Scores" in form or {a, b} != {1, 2})
    assert parse_verdict(form.format(a, b)) == ("A" if a > b else "B" if b > a else "Tie")


def test_a_reply_that_is_cut_in_its_points_says_nothing() -> None:
    assert parse_verdict("A: 9\nB: 1", was_cut=True) is None
